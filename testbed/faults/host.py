"""Faults of whole hosts: `host.power-cut` and `host.reboot`.

`testbed.boards.power` switches power; `guardian` switches it on if this program is gone.
"""

from __future__ import annotations

from contextlib import suppress

from pydantic import Field

from inventory.model import Lab
from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import Mechanism, Params
from testbed.campaign.quantities import SpanField
from testbed.campaign.selectors import HostField
from testbed.faults.guardian import Guardian
from testbed.faults.hosts import (
    ANSWER_S,
    LocalHostFault,
    SshHostFault,
    only_local,
    only_ssh,
)
from testbed.faults.processes import register_fault
from testbed.hosts.port import STOP_TIMEOUT_S, HostFault

__all__ = ["CutByDriver", "CutByKill", "CutBySysrq", "RebootByRestart", "RebootBySystem"]

BOOT_S_MAX = 120.0


class PowerCut(Params):
    """Takes the power of hosts away, and gives it back when `for` has passed. No process can finish
    anything, and data that was not synced is lost. In loopback all processes of the host are killed
    at once. A replica syncs each commit before it sends anything, so for a replica a kill loses as
    much as a power cut."""

    on: HostField
    for_: SpanField = Field(alias="for")


class Reboot(Params):
    """Restarts hosts properly. They have the time `for`. In loopback their processes are ended
    properly, and started again when `for` has passed."""

    on: HostField
    for_: SpanField = Field(alias="for")


class CutByKill(LocalHostFault):
    said = "none of its processes is left"

    def strike_host(self, name: str) -> None:
        for node in self.processes(name):
            self.kill(node)
        for node in self.processes(name):
            self.scene.deployment.hold_down(node)


class RebootByRestart(LocalHostFault):
    said = "all its processes have ended"

    def strike_host(self, name: str) -> None:
        for node in reversed(self.processes(name)):
            self.scene.deployment.hold_down(node, STOP_TIMEOUT_S)


class CutByDriver(SshHostFault):
    """A power cut by the power switch of the inventory."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._guardian: Guardian | None = None

    def arm(self) -> None:
        """Starts a guardian, which switches the hosts on if this program cannot."""
        assert self.scene.inventory is not None, "a lab with power has an inventory"
        hosts = self.scene.candidate_hosts("on")
        self._guardian = Guardian(self.scene.inventory, hosts, self.scene.undo_after_s)

    def strike_host(self, name: str) -> None:
        self._power(name, "off")

    def observe(self, within_s: float) -> Seen | None:
        names = {node.host for node in self.hit}
        if any(self.boot_id(name) is not None for name in names):
            return None
        others = self.others_go_on(max(0.0, within_s - ANSWER_S))
        return Seen("the host does not answer, and the others went on", others) if others else None

    def mend_host(self, name: str) -> None:
        self._power(name, "on")

    def heal(self) -> None:
        super().heal()
        if self._guardian is not None:
            self._guardian.dismiss()

    def _power(self, name: str, to: str) -> None:
        from testbed.boards.power import power_of  # noqa: PLC0415 - kinds must be light to import

        assert self.scene.inventory is not None
        power = power_of(self.scene.deployment.lab, name, self.scene.inventory)
        if to == "off":
            power.off()
        else:
            power.on()


class RebootBySystem(SshHostFault):
    """A reboot by the host's own first process."""

    command: tuple[str, ...] = ("systemctl", "--no-block", "start", "reboot.target")
    said = "it has started again"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._boots: dict[str, str | None] = {}

    def arm(self) -> None:
        self._boots = {name: self.boot_id(name) for name in self.scene.candidate_hosts("on")}

    def strike_host(self, name: str) -> None:
        with suppress(HostFault):  # the connection may end before the answer comes
            self.scene.host(name).run(self.command, root=True, timeout_s=ANSWER_S)

    def observe(self, within_s: float) -> Seen | None:
        names = {node.host for node in self.hit}
        now = {name: self.boot_id(name) for name in names}
        if any(boot in (None, self._boots[name]) for name, boot in now.items()):
            self.scene.pause(min(within_s, 0.2))
            return None
        return Seen(self.said, {"boot": now})

    def mend_host(self, name: str) -> None:
        self.wait_back(name, BOOT_S_MAX)


class CutBySysrq(RebootBySystem):
    """A power cut by the host's kernel, which restarts at once and without a sync. The host is off
    only during the restart."""

    command = ("sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger")
    said = "it has started again without a shutdown"


def _has_switch(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    bare = [name for name in hosts if lab.hosts[name].power is None]
    return f"{', '.join(bare)}: no power: in the inventory" if bare else None


register_fault(
    "host.power-cut",
    PowerCut,
    Mechanism("driver", CutByDriver, available=_has_switch),
    Mechanism("kill", CutByKill, available=only_local),
    Mechanism("sysrq", CutBySysrq, available=only_ssh),
    summary="power off for hosts, and on again when `for` has passed",
    seen="the host does not answer (or has started again), and the others go on",
)
register_fault(
    "host.reboot",
    Reboot,
    Mechanism("system", RebootBySystem, available=only_ssh),
    Mechanism("restart", RebootByRestart, available=only_local),
    summary="hosts restart properly",
    seen="the host has another boot id (in loopback: its processes end), and the others go on",
)
