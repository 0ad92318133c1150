"""Judges a lab that was disturbed: verdicts and figures, from its files and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil

from testbed.bundle import Bundle
from testbed.checks.evidence import Evidence
from testbed.hosts.port import UnitState
from testbed.report.derive import rebuild
from testbed.soak.draw import Disturbance, DisturbanceKind
from testbed.soak.operator import Command
from testbed.standing.state import NodeState

__all__ = [
    "Away",
    "Growth",
    "SoakResult",
    "away",
    "block_times_ns",
    "commands_at_fault",
    "growth",
    "judge",
    "orphans",
    "unsettled",
]

NORMAL_GAP_S = 1.0  # between two blocks, if nothing is wrong
AFTER_S = 15.0  # a gap that begins at most so long after a disturbance counts for it

# What a user calls the breach of a property, by the property.
_BREACHES = {
    "durability": "lost",
    "exactly-once": "doubled",
    "validity": "wrong",
    "agreement": "wrong",
    "no-unauthorised-commit": "wrong",
}


class Away(msgspec.Struct, frozen=True, kw_only=True):
    """How long no block was made after disturbances of one kind; only gaps above a second count."""

    kind: DisturbanceKind
    times: int
    total_s: float
    longest_s: float


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """The growth of one process between the first and the last sample in which it ran."""

    name: str
    memory_mb: float
    files: int
    disk_mb: float


class SoakResult(msgspec.Struct, frozen=True, kw_only=True):
    """`problems` is empty if all is well. `acknowledged`: receipts that devices hold;
    `board_readings`: acknowledged to boards."""

    schema: str = "testbed.soak/2"
    seed: int
    duration_s: float
    skipped: tuple[str, ...]
    bundle: str
    blocks: int
    records: int
    acknowledged: str
    board_readings: int
    commands: int
    restarts: int
    away: tuple[Away, ...]
    growth: tuple[Growth, ...]
    problems: tuple[str, ...]


def judge(bundle: Bundle) -> tuple[int, int, str, list[str]]:
    """Returns (blocks, records, receipts, breaches), from the checkers that judge every bundle."""
    summary = rebuild(bundle)
    breaches = [
        f"{_BREACHES.get(each.name, 'wrong')}: {each.name}: {each.detail}"
        for each in summary.properties
        if each.held is False
    ]
    kept = next((each.detail for each in summary.properties if each.name == "durability"), "")
    if not summary.ledger_verified:
        breaches.append(f"wrong: the ledger does not verify: {summary.ledger_problem}")
    return summary.blocks, summary.records, kept, breaches


def block_times_ns(bundle: Bundle) -> list[int]:
    """The times of the blocks of the longest chain: consensus time, which on one machine is wall
    time."""
    (run,) = bundle.runs
    return [each.head.time_us * 1000 for each in Evidence(run).longest.heads]


def away(times_ns: Sequence[int], done: Sequence[tuple[Disturbance, int, int]]) -> tuple[Away, ...]:
    """Computed from the times of blocks. A gap counts for the disturbance that lasted longest in
    it. If none lasted, it counts for the newest disturbance before its end."""
    gaps: dict[DisturbanceKind, list[float]] = {each.kind: [] for each, _, _ in done}
    for start_ns, end_ns in pairwise(times_ns):
        lasted_s = (end_ns - start_ns) / 1e9 - NORMAL_GAP_S
        if lasted_s > 0 and (kind := _cause(done, start_ns, end_ns)) is not None:
            gaps[kind].append(lasted_s)
    return tuple(
        Away(
            kind=kind,
            times=sum(each.kind is kind for each, _, _ in done),
            total_s=round(sum(found), 2),
            longest_s=round(max(found, default=0.0), 2),
        )
        for kind, found in gaps.items()
    )


def _cause(
    done: Sequence[tuple[Disturbance, int, int]], start_ns: int, end_ns: int
) -> DisturbanceKind | None:
    lasted = [min(over, end_ns) - max(began, start_ns) for _, began, over in done]
    if (longest := max(lasted, default=0)) > 0:
        return done[lasted.index(longest)][0].kind
    for each, began_ns, over_ns in reversed(done):
        if began_ns < end_ns and start_ns < over_ns + AFTER_S * 1e9:
            return each.kind
    return None


def growth(samples: Sequence[Sequence[NodeState]]) -> tuple[Growth, ...]:
    """Processes in the order of their growth of memory, largest first."""
    found = []
    for name in [state.name for state in samples[0]] if samples else ():
        states = [s for sample in samples for s in sample if s.name == name and s.memory_bytes]
        if len(states) > 1:
            first, last = states[0], states[-1]
            found.append(
                Growth(
                    name=name,
                    memory_mb=_mb(first.memory_bytes, last.memory_bytes),
                    files=(last.files or 0) - (first.files or 0),
                    disk_mb=_mb(first.disk_bytes, last.disk_bytes),
                )
            )
    return tuple(sorted(found, key=lambda each: -each.memory_mb))


def _mb(first: int | None, last: int | None) -> float:
    return round(((last or 0) - (first or 0)) / 1e6, 1)


def unsettled(states: Sequence[NodeState], lag_max: int) -> list[str]:
    """Processes that have not recovered, although no disturbance is left."""
    return [
        f"{state.name} is {state.process.state}"
        if state.process.state is not UnitState.ACTIVE
        else f"{state.name} lags by {state.lag} blocks"
        for state in states
        if state.process.state is not UnitState.ACTIVE or (state.lag or 0) > lag_max
    ]


def commands_at_fault(commands: Sequence[Command]) -> list[str]:
    return [f"testbed {each.words}: {each.problem}" for each in commands if each.problem]


def orphans(roots: Sequence[Path]) -> Iterator[str]:
    """Processes that still run in one of these directories."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        where = [process.info["cwd"] or "", *(process.info["cmdline"] or ())]
        if any(word.startswith(str(root)) for root in roots for word in where):
            yield f"orphan: process {process.pid}: {' '.join(process.info['cmdline'] or ())[:200]}"
