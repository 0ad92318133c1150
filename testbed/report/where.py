"""Where the time goes: the steps of every traced operation, and statistics over all of them.

The raw material is `testbed.traces`; `where_plots` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from gateway.hops import Hop
from testbed.checks.evidence import Evidence
from testbed.checks.stats import Latency, latency
from testbed.grouped import grouped
from testbed.report.columns import Table, table
from testbed.report.measure import Operation
from testbed.traces.clocks import Clocks
from testbed.traces.paths import PATH, BlockStep, HopTime, read_traces

__all__ = ["KINDS", "STEPS", "PathPart", "Row", "Where", "where_of", "where_tables"]

KINDS: Final = ("admission", "data")


class PathPart(NamedTuple):
    """One part of the path, until a hop: who works, and what is done."""

    who: str
    what: str


STEPS: Final[dict[Hop, PathPart]] = {
    Hop.SENT: PathPart("device", "wait, sign, keep on disk"),
    Hop.RELAY_IN: PathPart("network", "device to relay"),
    Hop.RELAY_OUT: PathPart("relay", "choose, stamp"),
    Hop.GATEWAY_IN: PathPart("network", "to the gateway"),
    Hop.ADMITTED: PathPart("gateway", "limits, signature"),
    Hop.DURABLE: PathPart("gateway", "keep on disk"),
    Hop.GATEWAY_OUT: PathPart("gateway", "choose a replica"),
    Hop.ARRIVED: PathPart("network", "gateway to replica"),
    Hop.VERIFIED: PathPart("replicas", "wait, verify"),
    Hop.FIRST_AUTHENTICATED: PathPart("replicas", "first authentication"),
    Hop.ENDORSED: PathPart("replicas", "group's quorum"),
    Hop.PROPOSED: PathPart("replicas", "batch wait, propose"),
    Hop.PREPARED: PathPart("replicas", "prepare"),
    Hop.SYNCED: PathPart("replicas", "sync"),
    Hop.COMMIT_SENT: PathPart("replicas", "send COMMIT"),
    Hop.COMMITTED: PathPart("replicas", "commit"),
    Hop.EXECUTED: PathPart("replicas", "execute"),
    Hop.SEALED: PathPart("replicas", "seal"),
    Hop.RECEIPT: PathPart("network", "to f+1 seals, receipt"),
    Hop.ANSWERED: PathPart("network", "to the device, verify"),
}
"""In the order of the path. If a step ends at another process than it began, it is time in the
network."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One step over all operations of a kind. `ms` are those that could be resolved."""

    kind: str
    hop: Hop
    part: PathPart
    ms: Latency
    unresolvable: int
    unknown: int
    bound_ms: float


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """`every`: one in so many requests was traced; None if there are no traces."""

    every: int | None
    problems: tuple[str, ...]
    paths: tuple[tuple[Operation, tuple[HopTime, ...]], ...]
    blocks: tuple[BlockStep, ...]
    rows: tuple[Row, ...]


def where_of(evidence: Evidence, found: Sequence[Operation]) -> Where:
    traces = read_traces(sorted((evidence.run.raw / "trace").glob("*.bin")))
    clocks = Clocks(evidence.clocks, evidence.conditions)
    paths = []
    for each in found:
        if each.request is not None:
            steps = traces.path(bytes.fromhex(each.request), each.height, clocks)
            if steps:
                paths.append((each, tuple(steps)))
    return Where(
        every=traces.every,
        problems=traces.problems,
        paths=tuple(paths),
        blocks=tuple(traces.block_steps()),
        rows=tuple(row for kind in KINDS for row in _rows(kind, paths)),
    )


def _rows(kind: str, paths: Sequence[tuple[Operation, tuple[HopTime, ...]]]) -> list[Row]:
    every = (step for operation, steps in paths if operation.kind == kind for step in steps)
    by_hop = grouped(every, lambda step: step.hop)
    return [
        Row(
            kind=kind,
            hop=hop,
            part=STEPS[hop],
            ms=latency([step.took_ns / 1e6 for step in by_hop[hop] if step.state == "known"]),
            unresolvable=sum(step.state == "unresolvable" for step in by_hop[hop]),
            unknown=sum(step.state == "unknown" for step in by_hop[hop]),
            bound_ms=round(max(step.bound_ns for step in by_hop[hop]) / 1e6, 3),
        )
        for hop in PATH
        if hop in by_hop
    ]


def where_tables(where: Where) -> tuple[Table, ...]:
    """`hops`: each step of each traced operation. `block_hops`: of each block at each replica.
    Neither without traces."""
    if where.every is None:
        return ()
    steps = [(operation, step) for operation, steps in where.paths for step in steps]
    return (
        table(
            "hops",
            steps,
            {
                "request": ("s", lambda each: each[0].request),
                "kind": ("s", lambda each: each[0].kind),
                "device": ("s", lambda each: each[0].node),
                "phase": ("s", lambda each: each[0].phase),
                "height": ("i", lambda each: each[0].height),
                "step": ("i", lambda each: int(each[1].hop)),
                "hop": ("s", lambda each: _name(each[1].hop)),
                "process": ("s", lambda each: each[1].process),
                "view": ("i", lambda each: each[1].view),
                "epoch": ("i", lambda each: each[1].epoch),
                "state": ("s", lambda each: each[1].state),
                "took_ms": (
                    "f",
                    lambda each: each[1].took_ns / 1e6 if each[1].state == "known" else None,
                ),
                "bound_ms": ("f", lambda each: each[1].bound_ns / 1e6),
            },
        ),
        table(
            "block_hops",
            where.blocks,
            {
                "replica": ("s", lambda each: each.replica),
                "height": ("i", lambda each: each.height),
                "view": ("i", lambda each: each.view),
                "epoch": ("i", lambda each: each.epoch),
                "proposed": ("b", lambda each: each.proposed),
                "step": ("i", lambda each: int(each.hop)),
                "hop": ("s", lambda each: _name(each.hop)),
                "took_us": ("f", lambda each: each.took_ns / 1e3),
            },
        ),
    )


def _name(hop: Hop) -> str:
    return hop.name.lower().replace("_", "-")
