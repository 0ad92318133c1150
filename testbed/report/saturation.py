"""Latency against offered load, and the knee: from a run whose load rises in steps.

Open-loop: a reading counts in the step in which it was intended, even if it was sent later. A
reading without an answer within the workload's timeout counts as lost, with that timeout as its
latency.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from testbed.campaign.schedule import Schedule
from testbed.checks.evidence import Evidence
from testbed.checks.stats import latency
from testbed.report.measure import Operation
from testbed.report.pairing import plain

__all__ = [
    "RateStep",
    "Saturation",
    "knee_of",
    "saturated",
    "saturation_of",
    "steps_of",
]

_STEPS_MIN = 3
_ANSWERED_MIN = 0.95  # of the offered load
_SLOWER_MAX = 3.0  # median latency, to that of the first step


class RateStep(msgspec.Struct, frozen=True, kw_only=True):
    """`offered_per_s`: intended sends; `goodput_per_s`: those that were answered in time. Latencies
    in ms over all of them, lost ones at the timeout."""

    start_ms: int
    end_ms: int
    offered_per_s: float
    goodput_per_s: float
    p50_ms: float
    p99_ms: float


class Saturation(msgspec.Struct, frozen=True, kw_only=True):
    """`knee` is the last step before the first one that is saturated: less than 95 % answered in
    time, or a median latency above three times that of the first step. None: the first step is
    saturated. `reached`: False if no step is saturated, so that the knee is at the last step or
    above."""

    steps: tuple[RateStep, ...]
    knee: RateStep | None
    reached: bool

    @property
    def in_words(self) -> str:
        if self.knee is None:
            return f"saturated already at {plain(self.steps[0].offered_per_s, 3)}/s offered"
        at = f"{plain(self.knee.offered_per_s, 3)}/s offered, p50 {plain(self.knee.p50_ms, 3)} ms"
        return f"knee at {at}" if self.reached else f"no knee up to {at}"


def steps_of(schedule: Schedule) -> list[tuple[int, int]]:
    """(start, end) of the stretches of constant load in the phase with the most of them. Empty if
    the load has no steps."""
    (trial, *_) = schedule.trials
    mobiles = [device for device in trial.devices if device.role == "mobile"]
    profiles = {draw.profile for device in mobiles for draw in device.draws}
    stretches = {
        (segment.phase, segment.start_ms, segment.end_ms)
        for profile in profiles
        for segment in profile.segments
        if segment.from_per_s == segment.to_per_s
    }
    by_phase: dict[str, list[tuple[int, int]]] = {}
    for phase, start_ms, end_ms in sorted(stretches, key=lambda each: each[1]):
        by_phase.setdefault(phase, []).append((start_ms, end_ms))
    most = max(by_phase.values(), key=len, default=[])
    return most if len(most) >= _STEPS_MIN else []


def saturation_of(evidence: Evidence, found: Sequence[Operation]) -> Saturation | None:
    """None if the load had no steps. Boards are left out, because they read at their own pace."""
    timeout_ms = evidence.schedule.workload.timeout_ms
    data = [each for each in found if each.kind == "data" and not each.source]
    steps = [_step(span, data, timeout_ms) for span in steps_of(evidence.schedule)]
    shown = [step for step in steps if step is not None]
    return knee_of(shown) if len(shown) >= _STEPS_MIN else None


def knee_of(steps: Sequence[RateStep]) -> Saturation:
    """`steps` by rising load."""
    good = [not saturated(step, steps[0]) for step in steps]
    bad = good.index(False) if False in good else len(good)
    return Saturation(
        steps=tuple(steps), knee=steps[bad - 1] if bad else None, reached=bad < len(steps)
    )


def saturated(step: RateStep, first: RateStep) -> bool:
    return (
        step.goodput_per_s < _ANSWERED_MIN * step.offered_per_s
        or step.p50_ms > _SLOWER_MAX * first.p50_ms
    )


def _step(span: tuple[int, int], data: Sequence[Operation], timeout_ms: int) -> RateStep | None:
    start_ms, end_ms = span
    within = [each for each in data if start_ms <= each.intended_ms < end_ms]
    if not within:
        return None
    taken = [timeout_ms if each.latency_ms is None else each.latency_ms for each in within]
    over_s = (end_ms - start_ms) / 1000
    quantiles = latency([min(ms, timeout_ms) for ms in taken])
    assert quantiles.p50 is not None
    assert quantiles.p99 is not None
    return RateStep(
        start_ms=start_ms,
        end_ms=end_ms,
        offered_per_s=len(within) / over_s,
        goodput_per_s=sum(ms < timeout_ms for ms in taken) / over_s,
        p50_ms=quantiles.p50,
        p99_ms=quantiles.p99,
    )
