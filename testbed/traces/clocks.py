"""One time line for the monotonic clocks of several machines, with an error bound for each moment.

Processes of one boot of one machine share a clock, so durations between them are exact. Durations
between machines use the clock readings of the run (raw/clock.jsonl, `testbed.care.clock`): each
reading gives the offset of a host's clock from the orchestrator's within a bound. The host's own
wall clock cancels out, so setting it does no harm.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from testbed.checks.conditions import ClockLine, ConditionLine

__all__ = ["Clocks", "Span", "State"]

DRIFT_PPM = 500.0
"""The most that a clock is slewed or drifts. Before the first and after the last reading the bound
grows by this rate. If readings differ by more, the clock was stepped."""

State = Literal["known", "unresolvable", "unknown"]
"""unresolvable: shorter than the bound of the clocks. unknown: no clock reading fits, or a clock
was set meanwhile."""


class Span(NamedTuple):
    """A duration; its error is at most `bound_ns`."""

    took_ns: int
    bound_ns: int
    state: State


class _Reading(NamedTuple):
    at_ns: int  # of the host's monotonic clock
    base_ns: int  # orchestrator's wall clock minus the host's monotonic one
    bound_ns: int


class _Moment(NamedTuple):
    """A moment on the orchestrator's wall clock, which was set `steps` times before."""

    at_ns: int
    bound_ns: int
    steps: int


class Clocks:
    """`conditions` tell to which boot of a host a clock reading belongs."""

    def __init__(self, clocks: Sequence[ClockLine], conditions: Sequence[ConditionLine]) -> None:
        self._readings: dict[str, list[_Reading]] = {}
        for line in clocks:
            if line.offset_ms is None or line.bound_ms is None:
                continue
            if line.wall_minus_monotonic_ns is None:
                continue
            looks = [each for each in conditions if each.host == line.host]
            if not looks:
                continue
            boot = min(looks, key=lambda each: abs(each.t - line.t)).seen.boot
            base_ns = line.wall_minus_monotonic_ns - round(line.offset_ms * 1e6)
            reading = _Reading(line.t - base_ns, base_ns, round(line.bound_ms * 1e6))
            self._readings.setdefault(boot, []).append(reading)

    def span(self, boot: str, from_ns: int, other: str, to_ns: int) -> Span:
        """The time from a moment of one machine's monotonic clock to a moment of another's (or the
        same)."""
        if boot == other:
            return Span(to_ns - from_ns, 0, "known")
        return _between(self._moment(boot, from_ns), self._moment(other, to_ns))

    def since(self, wall_ns: int, boot: str, to_ns: int) -> Span:
        """The time from a moment of the orchestrator's wall clock to one of a machine's monotonic
        clock."""
        first, last = self._of_orchestrator(boot, wall_ns), self._moment(boot, to_ns)
        return _between(first, last)

    def _of_orchestrator(self, boot: str, wall_ns: int) -> _Moment | None:
        """A moment of the orchestrator's wall clock; None if this clock was set between the
        readings of `boot` around it."""
        readings = self._readings.get(boot, [])
        place = bisect_right(readings, wall_ns, key=lambda each: each.at_ns + each.base_ns)
        around = readings[max(0, place - 1) : place + 1]
        if any(map(_stepped, around, around[1:])):
            return None
        return _Moment(wall_ns, 0, sum(map(_stepped, readings[:place], readings[1:place])))

    def _moment(self, boot: str, at_ns: int) -> _Moment | None:
        """A machine's moment on the orchestrator's clock; None if the clock was stepped between the
        readings around it."""
        readings = self._readings.get(boot)
        if not readings:
            return None
        place = bisect_right(readings, at_ns, key=lambda each: each.at_ns)
        before = readings[max(0, place - 1)]
        after = readings[min(place, len(readings) - 1)]
        if before is not after and _stepped(before, after):
            return None
        steps = sum(map(_stepped, readings[:place], readings[1:place]))
        gap_ns = after.at_ns - before.at_ns
        if gap_ns > 0:
            moved_ns = after.base_ns - before.base_ns
            base_ns = before.base_ns + moved_ns * (at_ns - before.at_ns) // gap_ns
            return _Moment(
                at_ns + base_ns, max(before.bound_ns, after.bound_ns) + abs(moved_ns), steps
            )
        away_ns = abs(at_ns - before.at_ns)
        bound_ns = before.bound_ns + round(away_ns * DRIFT_PPM / 1e6)
        return _Moment(at_ns + before.base_ns, bound_ns, steps)


def _between(first: _Moment | None, last: _Moment | None) -> Span:
    if first is None or last is None or first.steps != last.steps:
        return Span(0, 0, "unknown")
    took_ns, bound_ns = last.at_ns - first.at_ns, first.bound_ns + last.bound_ns
    return Span(took_ns, bound_ns, "unresolvable" if abs(took_ns) <= bound_ns else "known")


def _stepped(before: _Reading, after: _Reading) -> bool:
    slewed_ns = abs(after.at_ns - before.at_ns) * DRIFT_PPM / 1e6
    moved_ns = abs(after.base_ns - before.base_ns)
    return moved_ns > before.bound_ns + after.bound_ns + slewed_ns
