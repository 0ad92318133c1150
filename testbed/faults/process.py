"""Faults of processes: `process.crash`."""

from __future__ import annotations

from signal import Signals

from pydantic import Field

from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, Params, register, those
from testbed.campaign.quantities import SpanField
from testbed.campaign.selectors import SelectorField
from testbed.care.dead_man import arm, disarm
from testbed.hosts.port import UnitState
from testbed.provision.layout import Node

__all__ = ["Crash", "CrashFault"]


class Crash(Params):
    """Kill -9, restarted when `for` has passed."""

    on: SelectorField
    for_: SpanField = Field(alias="for")


class CrashFault(Injection):
    """SIGKILL to the process, held down, started again: what is on its disk is all that it keeps.

    Seen to take effect when the process is gone and, if it was the primary, when others have
    entered a later view; if not, when they have gone on without it.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._names: set[str] = set()
        self._view = 0
        self._tip = 0
        self._primary = ""

    def arm(self) -> None:
        """Each host starts its process again by itself if nobody else does; a process that is a
        child of this program ends with it and needs no undo."""
        deployment = self.scene.deployment
        for node in self.scene.candidates("on"):
            host = deployment.host(node)
            start = host.start_command(deployment.unit(node))
            if start is not None:
                arm(host, f"start-{node.name}", self.scene.undo_after_s, start)

    def apply(self) -> None:
        watch, deployment = self.scene.watch, self.scene.deployment
        self._view, self._tip = watch.current_view(), watch.tip()
        self._primary = watch.primary().name
        for node in self.scene.nodes("on"):
            self._names.add(node.name)
            deployment.host(node).signal(node.unit, Signals.SIGKILL)
            deployment.hold_down(node)  # or its supervisor would bring it back

    def observe(self, within_s: float) -> Seen | None:
        watch = self.scene.watch

        def gone_on() -> bool:
            if self._primary in self._names:
                return watch.current_view(self._names) > self._view
            return watch.tip(self._names) > self._tip

        down = all(self._is_down(node) for node in self.scene.nodes("on"))
        if not down or not watch.wait_for(gone_on, within_s):
            return None
        view, tip = watch.current_view(self._names), watch.tip(self._names)
        return Seen("the process is gone, and the others went on", {"view": view, "height": tip})

    def heal(self) -> None:
        self._tip = self.scene.watch.tip(self._names)
        deployment = self.scene.deployment
        for node in self.scene.candidates("on"):
            if node.name in self._names:
                deployment.start_node(node)
            if deployment.host(node).start_command(deployment.unit(node)) is not None:
                disarm(deployment.host(node), f"start-{node.name}")

    def verify(self, within_s: float) -> bool:
        """Running, ready, and at least as high as the others were when it was started again."""
        for node in self.scene.nodes("on"):
            self.scene.deployment.wait_ready(node)
        watch = self.scene.watch
        views = [view for view in watch.replicas if view.name in self._names]
        return watch.wait_for(lambda: all(view.height >= self._tip for view in views), within_s)

    def _is_down(self, node: Node) -> bool:
        status = self.scene.deployment.host(node).status(node.unit)
        return status.state is not UnitState.ACTIVE and status.pid is None


register(
    Kind(
        "process.crash",
        Crash,
        category="fault",
        layer="process",
        summary="kill -9 of a process, which is started again when `for` has passed",
        mechanisms=(Mechanism("signal", CrashFault),),
        impairs=those("on"),
        seen="the process is gone; others go to a later view, or on without it",
    )
)
