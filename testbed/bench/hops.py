"""Where one request's time goes: hop by hop, from the traces of all replicas.

Client and replicas run on one machine, so their monotonic clocks are one. The median replica
counts, because the client waits for f+1 of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from gateway.hops import REQUEST_HOPS, Hop, request_key
from testbed.traces.paths import REPLICA_PATH, steps
from testbed.traces.read import read_trace

__all__ = ["HOPS", "HopMedian", "LoneRequest", "hops"]

HOPS = (Hop.SENT, Hop.ARRIVED, Hop.VERIFIED, *REPLICA_PATH, Hop.ANSWERED)


class LoneRequest(msgspec.Struct, frozen=True):
    """A request that was alone: the block at `height` has no other. Times are monotonic."""

    request: bytes
    height: int
    sent_ns: int
    answered_ns: int


class HopMedian(msgspec.Struct, frozen=True):
    """The time from the hop before to the hop `until`; the median of the requests."""

    until: str
    p50_ms: float


def hops(traces: Sequence[Path], asked: Sequence[LoneRequest]) -> list[HopMedian]:
    """Empty if no replica's trace has any of these requests. Raises TraceError."""
    passed: dict[tuple[bool, int], dict[Hop, list[int]]] = defaultdict(lambda: defaultdict(list))
    for path in traces:
        for life in read_trace(path):
            for hop, key, at_ns, *_ in life.passed:
                passed[hop in REQUEST_HOPS, key][hop].append(at_ns)
    spent: dict[Hop, list[int]] = defaultdict(list)
    for each in asked:
        block = passed.get((False, each.height))
        if block is None:
            continue
        seen: Mapping[Hop, list[int]] = {**block, **passed[True, request_key(each.request)]}
        middle = {hop: round(median(moments)) for hop, moments in seen.items()}
        ends = {Hop.SENT: each.sent_ns, Hop.ANSWERED: each.answered_ns}
        for hop, took_ns in steps(HOPS, middle | ends):
            spent[hop].append(took_ns)
    return [
        HopMedian(hop.name.lower().replace("_", "-"), round(median(spent[hop]) / 1e6, 3))
        for hop in HOPS
        if hop in spent
    ]
