"""The shared part of faults of whole hosts: all processes of a host go and come back with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from inventory.model import Lab
from testbed.campaign.injection import Seen
from testbed.errors import LabFault
from testbed.faults.processes import ProcessFault
from testbed.hosts.port import HostFault, NodeCommand
from testbed.provision.layout import Node

__all__ = ["LocalHostFault", "SshHostFault", "WholeHostFault", "only_local", "only_ssh"]

ANSWER_S = 3.0
"""A host that has not answered in this time counts as silent."""
LOOK_S = 0.5


def only_local(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    """Why a mechanism for processes of this machine does not fit these hosts; None if it does."""
    away = [name for name in hosts if lab.hosts[name].connection != "local"]
    return f"{', '.join(away)}: not of this machine" if away else None


def only_ssh(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    """Why a mechanism for separate machines does not fit these hosts; None if it does."""
    here = [name for name in hosts if lab.hosts[name].connection == "local"]
    return f"{', '.join(here)}: part of this machine" if here else None


class WholeHostFault(ProcessFault):
    """A fault of the hosts `on`. `strike_host` applies it to one host, `mend_host` undoes it."""

    @abstractmethod
    def strike_host(self, name: str) -> None: ...

    @abstractmethod
    def mend_host(self, name: str) -> None: ...

    def strike(self, node: Node) -> None:
        raise AssertionError("hosts are hit as a whole")

    def repair(self, node: Node) -> None:
        raise AssertionError("hosts are repaired as a whole")

    def undo(self, node: Node) -> NodeCommand | None:
        """None: hosts need no undo of their own."""
        return None

    def candidates(self) -> Sequence[Node]:
        """None, because nothing is armed."""
        return ()

    def apply(self) -> None:
        self.note_others()
        for name in self.scene.host_names("on"):
            self.hit += self.processes(name)
            self.strike_host(name)

    def heal(self) -> None:
        self.note_tip()
        for name in {node.host for node in self.hit}:
            self.mend_host(name)

    def processes(self, host: str) -> list[Node]:
        """All processes of a host, in the order in which to start them."""
        return [node for node in self.scene.deployment.processes if node.host == host]


class LocalHostFault(WholeHostFault):
    """A fault of a host that consists of processes of this machine. All of them are ended and held
    down. They end with this program, so nothing else must be undone."""

    said: str

    def observe(self, within_s: float) -> Seen | None:
        others = self.others_go_on(within_s) if self.all_down() else None
        return Seen(f"{self.said}, and the others went on", others) if others else None

    def mend_host(self, name: str) -> None:
        deployment = self.scene.deployment
        for node in self.processes(name):
            if node in self.hit:
                self.start_if_down(node)
                deployment.wait_ready(node)


class SshHostFault(WholeHostFault):
    """A fault of a separate machine. At boot systemd starts its processes."""

    def boot_id(self, name: str) -> str | None:
        """The host's boot id; None if it does not answer."""
        try:
            host = self.scene.host(name)
            return host.run(["cat", "/proc/sys/kernel/random/boot_id"], timeout_s=ANSWER_S).stdout
        except HostFault:
            return None

    def wait_back(self, name: str, within_s: float) -> None:
        """Waits until the host answers, and starts its processes that do not run. Raises
        LabFault."""
        left_s = within_s
        while self.boot_id(name) is None:
            left_s -= LOOK_S
            if left_s <= 0 or not self.scene.pause(LOOK_S):
                raise LabFault(f"{name} has not come back; is it on? testbed power on {name}")
        for node in self.processes(name):
            self.scene.deployment.revive(node)

    def verify(self, within_s: float) -> bool:
        for name in {node.host for node in self.hit}:
            self.wait_back(name, within_s)
        return super().verify(within_s)
