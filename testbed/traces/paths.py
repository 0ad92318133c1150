"""The way of each operation through the processes, from what their traces hold together.

A hop may be noted more than once: a device tries again through another relay, every gateway takes
a message, a gateway submits again. Of several relays, gateways and replicas the one counts that was
first to pass the operation on; of a block the hops of the replica that proposed it last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gateway.hops import REQUEST_HOPS, Hop, request_key
from testbed.traces.clocks import Clocks, State
from testbed.traces.read import Life, TraceError, read_trace
from testbed.traces.spans import steps

__all__ = ["PATH", "REPLICA_PATH", "BlockStep", "Step", "Traces", "read_traces"]

PATH: Final = tuple(hop for hop in Hop if hop is not Hop.PRE_PREPARED)
"""Of an operation, with its block at the replica that proposed it."""

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
"""Of a block at one replica."""

# Hops that one and the same process passes; the last of them that it has noted chooses it.
_PARTS: Final = (
    (Hop.INTENDED, Hop.SENT, Hop.ANSWERED),
    (Hop.RELAY_IN, Hop.RELAY_OUT),
    (Hop.GATEWAY_IN, Hop.ADMITTED, Hop.DURABLE, Hop.GATEWAY_OUT, Hop.RECEIPT),
    (Hop.ARRIVED, Hop.VERIFIED, Hop.FIRST_AUTHENTICATED, Hop.ENDORSED),
)


class Step(NamedTuple):
    """Until `hop`, at `process`, since the hop before it. `view` and `epoch` are those of the hop;
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


class _Mark(NamedTuple):
    process: str
    boot: str
    at_ns: int
    view: int
    epoch: int


_Marks = dict[Hop, list[_Mark]]


class Traces(msgspec.Struct, kw_only=True):
    """All traces of a run. `every` is the coarsest sample, None if there is no trace; `problems`
    says what could not be read or was left out."""

    every: int | None
    problems: tuple[str, ...]
    requests: dict[int, _Marks]
    blocks: dict[int, _Marks]

    def path(self, request: bytes, height: int | None, clocks: Clocks) -> list[Step]:
        """The steps of one operation; empty if it is not in the sample. `height` is its block's,
        None if it is in none."""
        noted = self.requests.get(request_key(request), {})
        chosen = {hop: mark for part in _PARTS for hop, mark in _first(noted, part).items()}
        block = self.blocks.get(height, {}) if height is not None and chosen else {}
        if proposed := block.get(Hop.PROPOSED):
            proposer = max(proposed, key=lambda mark: (mark.view, mark.at_ns))
            chosen |= _of_one(block, proposer.process, REPLICA_PATH)
        return list(_steps(chosen, clocks))

    def block_steps(self) -> Iterator[BlockStep]:
        """Of each block at each replica, in the view in which it was executed there."""
        for height, noted in sorted(self.blocks.items()):
            for process in sorted({mark.process for marks in noted.values() for mark in marks}):
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
    """A file that is no trace is a problem, not an error: the run is evidence without it."""
    requests: dict[int, _Marks] = defaultdict(lambda: defaultdict(list))
    blocks: dict[int, _Marks] = defaultdict(lambda: defaultdict(list))
    every: int | None = None
    problems = []
    for path in paths:
        try:
            lives = read_trace(path)
        except TraceError as error:
            problems.append(str(error))
            continue
        for life in lives:
            every = max(every or 1, life.every)
            if life.dropped:
                problems.append(f"{path.stem}: {life.dropped} records of its trace were left out")
            _sort(path.stem, life, requests, blocks)
    return Traces(every=every, problems=tuple(problems), requests=requests, blocks=blocks)


def _sort(process: str, life: Life, requests: dict[int, _Marks], blocks: dict[int, _Marks]) -> None:
    for hop, key, at_ns, view, epoch in life.passed:
        into = requests if hop in REQUEST_HOPS else blocks
        into[key][hop].append(_Mark(process, life.boot, at_ns, view, epoch))


def _first(noted: Mapping[Hop, Sequence[_Mark]], part: Sequence[Hop]) -> dict[Hop, _Mark]:
    """The hops of one process: of the one that came furthest, and was the first there."""
    for hop in reversed(part):
        if marks := noted.get(hop):
            return _of_one(noted, min(marks, key=lambda mark: mark.at_ns).process, part)
    return {}


def _of_one(
    noted: Mapping[Hop, Sequence[_Mark]], process: str, hops: Sequence[Hop]
) -> dict[Hop, _Mark]:
    """What one process noted: of a request the first time, of a block the latest view."""
    found = {}
    for hop in hops:
        marks = [mark for mark in noted.get(hop, ()) if mark.process == process]
        if marks:
            found[hop] = min(marks, key=lambda mark: (-mark.view, mark.at_ns))
    return found


def _steps(chosen: Mapping[Hop, _Mark], clocks: Clocks) -> Iterator[Step]:
    """A hop that was passed before the one in front of it took no time of its own (`steps`)."""
    before: _Mark | None = None
    for hop in PATH:
        if (mark := chosen.get(hop)) is None:
            continue
        if before is not None:
            span = clocks.span(before.boot, before.at_ns, mark.boot, mark.at_ns)
            known = Hop.ARRIVED <= hop <= Hop.SEALED
            yield Step(
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
