"""The fate of each fault of the schedule: whether it was applied, seen, healed and recovered from.

Recovery is the time from healing until some replica had executed the first block that was proposed
after it. Healing is on the orchestrator's clock, the block on a replica's, so in a lab the time is
as exact as the clock readings around it (`testbed.traces.clocks`). The times when an effect was
seen, and when a target was whole again, are both on the orchestrator's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from testbed.checks.evidence import Evidence
from testbed.checks.logs import BlockDone
from testbed.traces.clocks import Clocks, Span, State

__all__ = ["InjectionResult", "injections"]

_WHO = ("on", "from")  # selector keys of a fault's main targets


class InjectionResult(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a fault or an action. Times are in ms from the start of the schedule; None if it
    did not happen. `what` was seen of it.

    `recovery` is None if no block was proposed after healing. `recovery_ms` is also None if the
    clocks do not tell how long it took. `whole_ms` is how long after healing the target was found
    clean, running and caught up.
    """

    id: str
    fault: str
    kind: str
    target: str
    planned_ms: float
    applied_ms: float | None
    observed: bool
    what: str
    aborted: bool
    healed_ms: float | None
    recovery: Span | None
    whole_ms: float | None

    @property
    def recovery_ms(self) -> float | None:
        if self.recovery is None or self.recovery.state == "unknown":
            return None
        return max(0.0, self.recovery.took_ns / 1e6)

    @property
    def recovery_bound_ms(self) -> float | None:
        """The error of `recovery_ms` is at most this."""
        return (
            None if self.recovery_ms is None or not self.recovery else self.recovery.bound_ns / 1e6
        )

    @property
    def recovery_state(self) -> State | None:
        return None if self.recovery is None else self.recovery.state

    @property
    def took_place(self) -> bool:
        return self.applied_ms is not None and self.observed and not self.aborted


def injections(evidence: Evidence) -> tuple[InjectionResult, ...]:
    """Every event of faults and actions that was not skipped, also those that never happened."""
    blocks = [*evidence.events(BlockDone)]
    clocks = Clocks(evidence.clocks, evidence.conditions) if evidence.clocks else None
    steps = {(line.event, line.step): line for line in evidence.faults}
    found = []
    for event in evidence.trial.events:
        if event.category == "attack" or event.skipped is not None:
            continue
        applied = steps.get((event.id, "applied"))
        seen = steps.get((event.id, "observed"))
        healed = steps.get((event.id, "healed"))
        whole = steps.get((event.id, "verified"))
        found.append(
            InjectionResult(
                id=event.id,
                fault=event.fault,
                kind=event.kind,
                target=_target(applied.targets if applied else event.targets),
                planned_ms=event.at_ms,
                applied_ms=evidence.at_ms(applied.t) if applied else None,
                observed=seen is not None and seen.seen,
                what=seen.what if seen else "",
                aborted=(event.id, "aborted") in steps,
                healed_ms=evidence.at_ms(healed.t) if healed else None,
                recovery=_recovery(blocks, healed.t, clocks) if healed else None,
                whole_ms=(
                    max(0.0, (whole.t - healed.t) / 1e6)
                    if whole and healed and whole.whole
                    else None
                ),
            )
        )
    return tuple(found)


def _target(targets: Mapping[str, Sequence[str]]) -> str:
    """`r1`, or `r1; with r3`: the main targets, then the others after their selector's key."""
    parts = [
        ", ".join(names) if key in _WHO else f"{key} {', '.join(names)}"
        for key, names in sorted(targets.items(), key=lambda each: (each[0] not in _WHO, each[0]))
    ]
    return "; ".join(parts)


def _recovery(blocks: Sequence[BlockDone], healed_ns: int, clocks: Clocks | None) -> Span | None:
    """The time until a replica executed the first block after healing. Without clock readings all
    ran on one machine."""
    later = [block for block in blocks if block.time_us * 1000 >= healed_ns]
    if not later:
        return None
    if clocks is None:
        return Span(min(block.t for block in later) - healed_ns, 0, "known")
    first = min(block.height for block in later)
    spans = [
        clocks.since(healed_ns, block.boot, block.m) for block in later if block.height == first
    ]
    return min(spans, key=lambda span: (span.state == "unknown", span.took_ns))
