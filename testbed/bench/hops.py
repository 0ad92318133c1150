"""Where one request's time goes: hop by hop, from the `block` events of all replicas.

Client and replicas run on one machine, so their monotonic clocks are one. Of the replicas the
median counts, because the client waits for f+1 of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec

from nodes.events import LoggedEvent, read_events

__all__ = ["HOPS", "Asked", "Hop", "hops"]

HOPS = ("proposed", "pre-prepared", "prepared", "committed", "executed", "answered")
"""proposed: the request has reached the primary; pre-prepared: the PRE-PREPARE a backup; prepared:
the PREPAREs are here; committed: the certificate is synced, and the COMMITs are here; executed: the
block is made and signed; answered: the client holds f+1 replies."""


class Asked(msgspec.Struct, frozen=True):
    """A request that was alone: it is the only one of the block at `height`. Monotonic times."""

    height: int
    sent_ns: int
    answered_ns: int


class Hop(msgspec.Struct, frozen=True):
    """`until` is one of `HOPS`; the time is from the one before it, the median of the requests."""

    until: str
    p50_ms: float


def hops(events: Sequence[Path], asked: Sequence[Asked]) -> list[Hop]:
    """Empty if no replica's events tell of any of these requests."""
    heights = {each.height for each in asked}
    blocks: dict[int, list[Mapping[str, int]]] = {}
    for path in events:
        for event in read_events(path):
            if event.event == "block" and event.fields["height"] in heights:
                blocks.setdefault(_number(event, "height"), []).append(_moments(event))
    spent = [_spent(each, blocks[each.height]) for each in asked if each.height in blocks]
    whole = [each for each in spent if each is not None]
    return [
        Hop(name, round(median(each[place] for each in whole) / 1e6, 3))
        for place, name in enumerate(HOPS)
        if whole
    ]


def _number(event: LoggedEvent, name: str) -> int:
    value = event.fields[name]
    assert isinstance(value, int)
    return value


def _moments(event: LoggedEvent) -> Mapping[str, int]:
    """When this replica reached each hop, in ns; the event is written as the block is executed."""
    first_ns = event.m - _number(event, "executed_us") * 1000
    return {
        name: first_ns + _number(event, f"{name.replace('-', '_')}_us") * 1000
        for name in HOPS[:-1]
        if f"{name.replace('-', '_')}_us" in event.fields
    }


def _spent(asked: Asked, replicas: Sequence[Mapping[str, int]]) -> list[int] | None:
    """Nanoseconds of each hop; None if a hop was not seen anywhere."""
    at = [asked.sent_ns]
    for name in HOPS[:-1]:
        seen = [moments[name] for moments in replicas if name in moments]
        if not seen:
            return None
        at.append(int(median(seen)))
    at.append(asked.answered_ns)
    return [later - earlier for earlier, later in pairwise(at)]
