"""Wrong clocks of replicas: `clock.step` and `clock.drift`, by the switch of their processes.

In every stage only the replica's own time is wrong. The clock of its host stays right; its log and
the orchestrator use that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Annotated

from pydantic import Field

from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import OnProcesses
from testbed.campaign.quantities import SpanField
from testbed.faults.processes import register_fault
from testbed.faults.switched import SwitchFault, by_switch
from testbed.provision.layout import Node

__all__ = ["ClockFault"]

BLOCKS_MIN = 3
SHIFT_SHARE = 0.5  # of the clock's error must be seen,
SHIFT_MIN_MS = 50.0  # and more than load causes


class Step(OnProcesses):
    """Sets the clocks of replicas ahead by `by`, or back with `back: true`, until `for` has passed.
    Beyond `chain.precision` a primary's proposals are refused, and a backup cannot vote. Within it
    only the time stamps of a primary show it."""

    by: SpanField
    back: bool = False


class Drift(OnProcesses):
    """Makes the clocks of replicas too fast by `ppm`, or too slow if it is negative, until `for`
    has passed; then they are right again."""

    ppm: Annotated[int, Field(ge=-500_000, le=500_000)]


class ClockFault(SwitchFault):
    """Seen when a primary's proposals have other times than before, or it is replaced; or when a
    backup executes blocks for which it could not vote."""

    seam = "clock"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._ages_ms: dict[str, float | None] = {}

    def order(self, node: Node) -> dict[str, object]:
        params = self.scene.event.params
        if "ppm" in params:
            return {"drift_ppm": params["ppm"]}
        by_ms = int(str(params["by_ms"]))
        return {"step_ms": -by_ms if params["back"] else by_ms}

    def strike(self, node: Node) -> None:
        self._ages_ms[node.name] = self._age_ms(node)
        super().strike(node)

    def observe(self, within_s: float) -> Seen | None:
        if not self.scene.watch.wait_for(lambda: all(map(self._shows, self.hit)), within_s):
            return None
        ages = {node.name: self._age_ms(node) for node in self.hit}
        return Seen("proposals have other times, or it cannot vote", {"proposals_old_ms": ages})

    def _shows(self, node: Node) -> bool:
        if node.name == self.primary:
            return self.replaced or self._shifted(node)
        blocks = self.since.logged(node.name, "block")[-BLOCKS_MIN:]
        # It executed these blocks without having accepted their proposals.
        return len(blocks) == BLOCKS_MIN and not any("pre_prepared_us" in each for each in blocks)

    def _shifted(self, node: Node) -> bool:
        before, now = self._ages_ms[node.name], self._age_ms(node, new=True)
        if before is None or now is None:
            return False
        params = self.scene.event.params
        wrong_ms = float(str(params.get("by_ms", 0)))
        if "ppm" in params:
            wrong_ms = abs(int(str(params["ppm"]))) * self.since.age_s / 1000
        return abs(now - before) >= max(SHIFT_MIN_MS, SHIFT_SHARE * wrong_ms)

    def _age_ms(self, node: Node, *, new: bool = False) -> float | None:
        """How old proposals of the view were when others executed their blocks: median of the
        newest. None if there are too few. (A constant offset between hosts cancels out.)"""
        ages = list(self._ages(node, new=new))[-3 * BLOCKS_MIN :]
        return median(ages) if len(ages) >= BLOCKS_MIN else None

    def _ages(self, node: Node, *, new: bool) -> Iterator[float]:
        for view in self.scene.watch.replicas:
            if view.name in self.names:
                continue
            blocks = self.since.logged(view.name, "block") if new else view.logged("block")
            for event in blocks:
                if "pre_prepared_us" in event and event["view"] == self.view:
                    yield event["t"] / 1e6 - (event["executed_us"] + event["time_us"]) / 1000


_SEEN = (
    "primary: its proposals have other times, or it is replaced; backup: it executes blocks for "
    "which it could not vote"
)
register_fault(
    "clock.step",
    Step,
    by_switch(ClockFault),
    summary="a replica's clock is set ahead or back",
    seen=_SEEN,
)
register_fault(
    "clock.drift",
    Drift,
    by_switch(ClockFault),
    summary="a replica's clock goes too fast or too slow",
    seen=_SEEN,
)
