"""What became of each fault of the schedule: applied, seen, healed, recovered from.

Recovery is the time from healing until some replica had executed the first block that was proposed
after it. It is taken from two wall clocks, the orchestrator's and a replica's, so in a lab it is as
exact as the bound of their offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from testbed.checks.evidence import Evidence
from testbed.checks.logs import BlockDone, FaultLine

__all__ = ["Injection", "injections", "worst_recovery_ms"]

_WHO = ("on", "from")  # selector keys of who a fault falls on


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a fault or an action. Times in ms from the start of the schedule, None if it
    did not happen. `what` was seen at `observed_ms`.

    `recovery_ms` is None if no block was proposed after healing; `whole_ms` is how long after
    healing the target was found clean, running and caught up.
    """

    id: str
    fault: str
    kind: str
    target: str
    planned_ms: float
    applied_ms: float | None
    observed: bool
    observed_ms: float | None
    what: str
    aborted: bool
    healed_ms: float | None
    recovery_ms: float | None
    whole_ms: float | None

    @property
    def took_place(self) -> bool:
        return self.applied_ms is not None and self.observed and not self.aborted


def injections(evidence: Evidence) -> tuple[Injection, ...]:
    """Every fault event of the schedule, also those that never came to be."""
    blocks = sorted((event.time_us, event.t) for event in evidence.events(BlockDone))
    lines: dict[str, list[FaultLine]] = {}
    for line in evidence.faults:
        lines.setdefault(line.event, []).append(line)
    found = []
    for event in evidence.trial.events:
        if event.category == "attack" or event.skipped is not None:
            continue
        steps = {line.step: line for line in lines.get(event.id, ())}
        seen, healed, whole = (steps.get(step) for step in ("observed", "healed", "verified"))
        resolved = steps["applied"].targets if "applied" in steps else event.targets
        found.append(
            Injection(
                id=event.id,
                fault=event.fault,
                kind=event.kind,
                target=_target(resolved),
                planned_ms=event.at_ms,
                applied_ms=evidence.at_ms(steps["applied"].t) if "applied" in steps else None,
                observed=seen is not None and seen.seen,
                observed_ms=evidence.at_ms(seen.seen_ns) if seen and seen.seen_ns else None,
                what=seen.what if seen else "",
                aborted="aborted" in steps,
                healed_ms=evidence.at_ms(healed.t) if healed else None,
                recovery_ms=_recovery_ms(blocks, healed.t) if healed else None,
                whole_ms=(whole.t - healed.t) / 1e6 if whole and healed and whole.whole else None,
            )
        )
    return tuple(found)


def _target(targets: Mapping[str, Sequence[str]]) -> str:
    """`r1`, or `r1; with r3`: who, and (by its selector's key) who else."""
    parts = [
        ", ".join(names) if key in _WHO else f"{key} {', '.join(names)}"
        for key, names in sorted(targets.items(), key=lambda each: (each[0] not in _WHO, each[0]))
    ]
    return "; ".join(parts)


def _recovery_ms(blocks: list[tuple[int, int]], healed_ns: int) -> float | None:
    done = [t for time_us, t in blocks if time_us * 1000 >= healed_ns]
    return (min(done) - healed_ns) / 1e6 if done else None


def worst_recovery_ms(found: tuple[Injection, ...]) -> float | None:
    """The longest recovery; infinite if there was none after a fault that was healed, None if
    nothing was healed."""
    healed = [each for each in found if each.healed_ms is not None]
    if not healed:
        return None
    return max(float("inf") if each.recovery_ms is None else each.recovery_ms for each in healed)
