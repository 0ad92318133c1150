"""How long each step of a path took, from the times of its hops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.hops import Hop

__all__ = ["steps"]


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
