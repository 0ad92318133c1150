"""The shared part of all faults of processes: their undo, the proof that the others go on, and the
check that all is well again.

A fault defines its action on one process (`strike`), its repair (`repair`), and the undo by the
host when the orchestrator is gone (`undo`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from signal import Signals

from testbed.campaign.event import Disturbed
from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register, those
from testbed.campaign.watch import Since
from testbed.care.dead_man import arm, disarm
from testbed.fleet import at_once
from testbed.hosts.port import Host, HostFault, NodeCommand, UnitState
from testbed.provision.layout import Node

__all__ = ["EndedFault", "ProcessFault", "register_fault"]


def register_fault(
    name: str,
    params: type[Params],
    *mechanisms: Mechanism,
    summary: str,
    seen: str,
    disturbs: tuple[Disturbed, ...] = (),
) -> None:
    """Registers a fault of processes or hosts: it makes the replicas among its targets faulty."""
    register(
        Kind(
            name,
            params,
            category="fault",
            layer="process",
            summary=summary,
            mechanisms=mechanisms,
            impairs=those("on"),
            disturbs=disturbs,
            seen=seen,
        )
    )


class ProcessFault(Injection):
    """A fault of the processes `on`. The names of its undos begin with `undo_name`."""

    undo_name: str

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hit: list[Node] = []
        self.view = 0
        self.primary = ""
        self.since = Since(scene.watch)
        self._tip = 0

    @abstractmethod
    def strike(self, node: Node) -> None:
        """Apply the fault to one process."""

    @abstractmethod
    def repair(self, node: Node) -> None:
        """Undo it. Repeatable. The process may be in any state."""

    @abstractmethod
    def undo(self, node: Node) -> NodeCommand | None:
        """The command that undoes it on the host while nobody is connected; None if all processes
        end with this program."""

    def targets(self) -> Sequence[Node]:
        """The processes to hit, in this order. Call it in `apply` or later."""
        return self.scene.nodes("on")

    def candidates(self) -> Sequence[Node]:
        """The processes that may be hit."""
        return self.scene.candidates("on")

    def host(self, node: Node) -> Host:
        return self.scene.deployment.host(node)

    def arm(self) -> None:
        for node in self.candidates():
            if (undo := self.undo(node)) is not None:
                arm(self.host(node), self._undo_name(node), self.scene.undo_after_s, undo)

    def apply(self) -> None:
        self.note_others()
        for node in self.targets():
            self.hit.append(node)
            self.strike(node)

    def note_others(self) -> None:
        """Note the state of the network: from now on the others must go on (`others_go_on`)."""
        watch = self.scene.watch
        self.view, self._tip = watch.current_view(), watch.tip()
        self.primary = watch.primary().name
        self.since = Since(watch)

    def note_tip(self) -> None:
        """Note the height that the hit processes must reach (`verify`)."""
        self._tip = self.scene.watch.tip(self.names)

    def heal(self) -> None:
        self.note_tip()
        at_once(self.repair, self.hit)

    def close(self) -> None:
        """Disarms the undos, also on hosts where nothing was hit: one of them may be lost."""
        at_once(self._disarm, self.candidates())

    def _disarm(self, node: Node) -> None:
        if self.undo(node) is not None:
            work = partial(disarm, self.host(node), self._undo_name(node))
            self.scene.deployment.when_back(node.host, work)

    def verify(self, within_s: float) -> bool:
        """Whether all hit processes run, are ready, and are at least as high as the others were at
        healing."""
        for node in self.hit:
            self.scene.deployment.wait_ready(node)
        watch = self.scene.watch
        views = [view for view in watch.replicas if view.name in self.names]
        return watch.wait_for(lambda: all(view.height >= self._tip for view in views), within_s)

    def kill(self, node: Node) -> None:
        """SIGKILL, if it has a process at the moment."""
        with suppress(HostFault):
            self.host(node).signal(node.unit, Signals.SIGKILL)

    def start_if_down(self, node: Node) -> None:
        """Start the process. If it runs, it is left alone, because its ready file is valid."""
        if self.host(node).status(node.unit).state is not UnitState.ACTIVE:
            self.scene.deployment.start_node(node)

    def all_down(self) -> bool:
        """Whether all hit processes are gone."""
        states = [self.host(node).status(node.unit) for node in self.hit]
        return all(each.state is not UnitState.ACTIVE and each.pid is None for each in states)

    @property
    def names(self) -> set[str]:
        """The names of the hit processes."""
        return {node.name for node in self.hit}

    def others_go_on(self, within_s: float) -> dict[str, object] | None:
        """View and height of the other replicas when they go on: in a later view if their primary
        was hit, otherwise with new blocks. None if they do not. If every replica was hit, there are
        no others."""
        watch = self.scene.watch
        if all(view.name in self.names for view in watch.replicas):
            return {"others": 0}

        def gone_on() -> bool:
            if self.primary in self.names:
                return self.replaced
            return watch.tip(self.names) > self._tip

        if not watch.wait_for(gone_on, within_s):
            return None
        return {"view": watch.current_view(self.names), "height": watch.tip(self.names)}

    @property
    def replaced(self) -> bool:
        """Whether the primary was hit and the others have entered a later view."""
        watch = self.scene.watch
        return self.primary in self.names and watch.current_view(self.names) > self.view

    def lost_by(self, node: Node) -> int:
        """How many other replicas have lost their link to this process since it was hit."""
        party = str(node.index) if node.role == "replica" else node.name
        others = (view.name for view in self.scene.watch.replicas if view.name not in self.names)
        return sum(
            any(str(event["party"]) == party for event in self.since.logged(name, "link-down"))
            for name in others
        )

    def _undo_name(self, node: Node) -> str:
        return f"{self.undo_name}-{node.name}"


class EndedFault(ProcessFault):
    """A fault that ends processes. They are started again."""

    undo_name = "start"

    def undo(self, node: Node) -> NodeCommand | None:
        return self.host(node).start_command(self.scene.deployment.unit(node))

    def repair(self, node: Node) -> None:
        self.start_if_down(node)
