"""The path of each operation through the processes, from all their traces.

A hop may be noted more than once: a device tries again through another relay, every gateway takes a
message, a gateway submits again. The first relay, gateway or replica that passed the operation on
counts. For a block, the hops of the replica that proposed it last count.

Traces may come from a stranger: RECORDS_MAX limits memory and time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gateway.hops import REQUEST_HOPS, Hop, request_key
from nodes.trace_file import RECORD
from testbed.traces.clocks import Clocks, State
from testbed.traces.read import Life, TraceError, read_trace

__all__ = ["PATH", "REPLICA_PATH", "BlockStep", "HopTime", "Traces", "read_traces", "steps"]

PATH: Final = tuple(hop for hop in Hop if hop is not Hop.PRE_PREPARED)
"""The hops of an operation, with those of its block at the replica that proposed it."""

REPLICA_PATH: Final = (
    Hop.PROPOSED,
    Hop.PRE_PREPARED,
    Hop.PREPARED,
    Hop.SYNCED,
    Hop.COMMIT_SENT,
    Hop.COMMITTED,
    Hop.EXECUTED,
    Hop.SEALED,
)
"""The hops of a block at one replica."""

RECORDS_MAX = 4_000_000
"""For all traces of a run together; so many take about 1 GB of memory."""

# Groups of hops that one process passes. Among several processes, the last hop that was noted
# chooses.
_PARTS: Final = (
    (Hop.INTENDED, Hop.SENT, Hop.ANSWERED),
    (Hop.RELAY_IN, Hop.RELAY_OUT),
    (Hop.GATEWAY_IN, Hop.ADMITTED, Hop.DURABLE, Hop.GATEWAY_OUT, Hop.RECEIPT),
    (Hop.ARRIVED, Hop.VERIFIED, Hop.FIRST_AUTHENTICATED, Hop.ENDORSED),
)


class HopTime(NamedTuple):
    """The time from the hop before to `hop`, at `process`. `view` and `epoch` are those of the hop;
    only replicas know them."""

    hop: Hop
    process: str
    view: int | None
    epoch: int | None
    took_ns: int
    bound_ns: int
    state: State


class BlockStep(NamedTuple):
    """One step of one block at one replica, on its own clock. `proposed`: by this replica."""

    replica: str
    height: int
    view: int
    epoch: int
    proposed: bool
    hop: Hop
    took_ns: int


def steps(order: Sequence[Hop], at_ns: Mapping[Hop, int]) -> list[tuple[Hop, int]]:
    """(hop, ns since the hop before it) for each passed hop after the first.

    A replica may pass hops in another order: it counts the COMMITs of others before its own is
    synced. A hop that was passed before its predecessor took no time of its own.
    """
    found = []
    before_ns: int | None = None
    for hop in order:
        if (now_ns := at_ns.get(hop)) is None:
            continue
        if before_ns is not None:
            found.append((hop, max(0, now_ns - before_ns)))
        before_ns = now_ns if before_ns is None else max(before_ns, now_ns)
    return found


class _Mark(NamedTuple):
    process: str
    boot: str
    at_ns: int
    view: int
    epoch: int


_Marks = dict[Hop, dict[str, _Mark]]  # by process: the hops that it noted of one request or block


class Traces(msgspec.Struct, kw_only=True):
    """All traces of a run. `every` is the coarsest sample, None if there is no trace; `problems`
    says what could not be read, or was left out."""

    every: int | None
    problems: tuple[str, ...]
    requests: dict[int, _Marks]
    blocks: dict[int, _Marks]
    proposers: dict[int, str | None]  # by block, the replica that proposed it last

    def path(self, request: bytes, height: int | None, clocks: Clocks) -> list[HopTime]:
        """The steps of one operation; empty if it is not in the sample. `height` is that of its
        block, None if it is in no block."""
        noted = self.requests.get(request_key(request), {})
        chosen = {hop: mark for part in _PARTS for hop, mark in _first(noted, part).items()}
        block = self.blocks.get(height, {}) if height is not None and chosen else {}
        if height is not None and block and (proposer := self.proposers.get(height)) is not None:
            chosen |= _of_one(block, proposer, REPLICA_PATH)
        return list(_steps(chosen, clocks))

    def block_steps(self) -> Iterator[BlockStep]:
        """The steps of each block at each replica, in the view in which the replica executed it."""
        for height, noted in sorted(self.blocks.items()):
            for process in sorted({process for marks in noted.values() for process in marks}):
                at = _of_one(noted, process, REPLICA_PATH)
                if (executed := at.get(Hop.EXECUTED)) is None:
                    continue
                here = {hop: mark.at_ns for hop, mark in at.items() if mark.view == executed.view}
                for hop, took_ns in steps(REPLICA_PATH, here):
                    yield BlockStep(
                        process,
                        height,
                        executed.view,
                        executed.epoch,
                        Hop.PROPOSED in here,
                        hop,
                        took_ns,
                    )


def read_traces(paths: Iterable[Path]) -> Traces:
    """A file that is no trace is listed as a problem, but is no error: the run is evidence even
    without it."""
    requests: dict[int, _Marks] = defaultdict(lambda: defaultdict(dict))
    blocks: dict[int, _Marks] = defaultdict(lambda: defaultdict(dict))
    every: int | None = None
    problems = []
    left = RECORDS_MAX
    for path in paths:
        left -= path.stat().st_size // RECORD.size
        if left < 0:
            problems.append(f"{path.stem} and what follows: above {RECORDS_MAX} records in all")
            break
        try:
            lives = read_trace(path)
        except TraceError as error:
            problems.append(str(error))
            continue
        for life in lives:
            every = max(every or 1, life.every)
            _sort(path.stem, life, requests, blocks)
        if dropped := sum(life.dropped for life in lives):
            problems.append(f"{path.stem}: {dropped} records, for which there was no room")
    return Traces(
        every=every,
        problems=tuple(problems),
        requests=requests,
        blocks=blocks,
        proposers={height: _proposer(noted) for height, noted in blocks.items()},
    )


def _sort(process: str, life: Life, requests: dict[int, _Marks], blocks: dict[int, _Marks]) -> None:
    """Sorts records. For a request the first time counts at which a process noted a hop, for a
    block the latest view."""
    for hop, key, at_ns, view, epoch in life.passed:
        mark = _Mark(process, life.boot, at_ns, view, epoch)
        if hop in REQUEST_HOPS:
            known = requests[key][hop].setdefault(process, mark)
            if at_ns < known.at_ns:
                requests[key][hop][process] = mark
        else:
            known = blocks[key][hop].setdefault(process, mark)
            if (-view, at_ns) < (-known.view, known.at_ns):
                blocks[key][hop][process] = mark


def _proposer(noted: _Marks) -> str | None:
    proposed = noted.get(Hop.PROPOSED, {})
    last = max(proposed.values(), key=lambda mark: (mark.view, mark.at_ns), default=None)
    return None if last is None else last.process


def _first(noted: Mapping[Hop, Mapping[str, _Mark]], part: Sequence[Hop]) -> dict[Hop, _Mark]:
    """The hops of one process: the one that reached the latest hop, and reached it first."""
    for hop in reversed(part):
        if marks := noted.get(hop):
            return _of_one(noted, min(marks.values(), key=lambda mark: mark.at_ns).process, part)
    return {}


def _of_one(
    noted: Mapping[Hop, Mapping[str, _Mark]], process: str, hops: Sequence[Hop]
) -> dict[Hop, _Mark]:
    """The hops that one process noted."""
    return {hop: noted[hop][process] for hop in hops if hop in noted and process in noted[hop]}


def _steps(chosen: Mapping[Hop, _Mark], clocks: Clocks) -> Iterator[HopTime]:
    """Makes steps of hops. A hop that was passed before its predecessor took no time of its own
    (`steps`)."""
    before: _Mark | None = None
    for hop in PATH:
        if (mark := chosen.get(hop)) is None:
            continue
        if before is not None:
            span = clocks.span(before.boot, before.at_ns, mark.boot, mark.at_ns)
            known = Hop.ARRIVED <= hop <= Hop.SEALED
            yield HopTime(
                hop,
                mark.process,
                mark.view if known else None,
                mark.epoch if known else None,
                max(0, span.took_ns),
                span.bound_ns,
                span.state,
            )
            if span.took_ns < 0:
                continue
        before = mark
