"""Faults of processes: `process.crash`."""

from __future__ import annotations

from signal import Signals

from pydantic import Field

from testbed.campaign.injection import Scene
from testbed.campaign.kinds import Kind, Params, register
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


class CrashFault:
    """SIGKILL to the process, held down, started again: what is on its disk is all that it keeps.

    Seen to take effect when the process is gone and, if it was the primary, when others have
    entered a later view; if not, when they have gone on without it.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._nodes = scene.targets["on"]
        self._names = {node.name for node in self._nodes}
        self._view = 0
        self._tip = 0
        self._primary = ""

    def arm(self) -> None:
        """Each host starts its process again by itself if nobody else does; a process that is a
        child of this program ends with it and needs no undo."""
        deployment = self._scene.deployment
        for node in self._nodes:
            host = deployment.host(node)
            start = host.start_command(deployment.unit(node))
            if start is not None:
                arm(host, f"start-{node.name}", self._scene.undo_after_s, start)

    def apply(self) -> None:
        watch = self._scene.watch
        self._view, self._tip = watch.current_view(), watch.tip()
        self._primary = watch.primary().name
        for node in self._nodes:
            host = self._scene.deployment.host(node)
            host.signal(node.unit, Signals.SIGKILL)
            self._scene.deployment.hold_down(node)  # or its supervisor would bring it back

    def observe(self, within_s: float) -> bool:
        watch = self._scene.watch

        def gone_on() -> bool:
            if self._primary in self._names:
                return watch.current_view(self._names) > self._view
            return watch.tip(self._names) > self._tip

        return all(self._is_down(node) for node in self._nodes) and watch.wait_for(
            gone_on, within_s
        )

    def heal(self) -> None:
        self._tip = self._scene.watch.tip(self._names)
        deployment = self._scene.deployment
        for node in self._nodes:
            deployment.start_node(node)
            if deployment.host(node).start_command(deployment.unit(node)) is not None:
                disarm(deployment.host(node), f"start-{node.name}")

    def verify(self, within_s: float) -> bool:
        """Running, ready, and at least as high as the others were when it was started again."""
        for node in self._nodes:
            self._scene.deployment.wait_ready(node)
        views = [view for view in self._scene.watch.replicas if view.name in self._names]
        return self._scene.watch.wait_for(
            lambda: all(view.height >= self._tip for view in views), within_s
        )

    def _is_down(self, node: Node) -> bool:
        status = self._scene.deployment.host(node).status(node.unit)
        return status.state is not UnitState.ACTIVE and status.pid is None


register(
    Kind(
        "process.crash",
        Crash,
        category="fault",
        layer="process",
        summary="kill -9 of a process, which is started again when `for` has passed",
        make=CrashFault,
        impairs=("on",),
        seen="the process is gone; others go to a later view, or on without it",
    )
)
