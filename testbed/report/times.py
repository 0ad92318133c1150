"""How late events began and ended, by kind: p50 and worst over all runs of bundles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import median

import msgspec

from testbed.checks.evidence import Evidence

__all__ = ["KindTimes", "Lateness", "times"]


class Lateness(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds after the planned moment. `n`: how many there were; None where that is 0."""

    n: int
    p50_ms: float | None
    max_ms: float | None


class KindTimes(msgspec.Struct, frozen=True, kw_only=True):
    """All events of a kind: when each was applied, when its effect was seen, and when it was undone
    after its planned end (if it has one)."""

    kind: str
    events: int
    applied: Lateness
    seen: Lateness
    healed: Lateness


def times(runs: Iterable[Evidence]) -> tuple[KindTimes, ...]:
    planned: Counter[str] = Counter()
    late_ms: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for evidence in runs:
        steps = {(line.event, line.step): line for line in evidence.faults}
        for event in evidence.trial.events:
            if event.skipped is not None:
                continue
            planned[event.kind] += 1
            if applied := steps.get((event.id, "applied")):
                late_ms[event.kind, "applied"].append(evidence.at_ms(applied.t) - event.at_ms)
            if (seen := steps.get((event.id, "observed"))) and seen.seen_ns is not None:
                late_ms[event.kind, "seen"].append(evidence.at_ms(seen.seen_ns) - event.at_ms)
            cut = (event.id, "aborted") in steps
            if event.for_ms and not cut and (healed := steps.get((event.id, "healed"))):
                end_ms = event.at_ms + event.for_ms
                late_ms[event.kind, "healed"].append(evidence.at_ms(healed.t) - end_ms)
    return tuple(
        KindTimes(
            kind=kind,
            events=planned[kind],
            applied=_late(late_ms[kind, "applied"]),
            seen=_late(late_ms[kind, "seen"]),
            healed=_late(late_ms[kind, "healed"]),
        )
        for kind in sorted(planned)
    )


def _late(values: list[float]) -> Lateness:
    if not values:
        return Lateness(n=0, p50_ms=None, max_ms=None)
    return Lateness(n=len(values), p50_ms=round(median(values), 1), max_ms=round(max(values), 1))
