"""Which ways a partition cuts, and which replicas then count as faulty. Pure.

Names are those of replicas, or `primary` and `backup(K)` before a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, assert_never

from testbed.errors import ConfigurationError

__all__ = ["PartitionShape", "apart", "cut_off", "cut_ways"]

PartitionShape = Literal["one-way", "two-way", "split", "bridge", "ring"]
Ways = tuple[tuple[str, str], ...]


def cut_ways(
    shape: PartitionShape, everyone: Sequence[str], from_: Collection[str], to: Collection[str]
) -> Ways:
    """The ways that are cut, each as (source, target).

    `one-way`, `two-way`: between `from_` and `to`. `split`: `from_` against all others. `bridge`:
    two halves that are connected only through `from_`. `ring`: each hears its two neighbours only.
    """
    match shape:
        case "one-way":
            return _product(from_, to)
        case "two-way":
            return _both(_product(from_, to))
        case "split":
            return _both(_product(from_, [name for name in everyone if name not in from_]))
        case "bridge":
            rest = [name for name in everyone if name not in from_]
            half = len(rest) // 2
            return _both(_product(rest[:half], rest[half:]))
        case "ring":
            number = len(everyone)
            return tuple(
                (everyone[i], everyone[k])
                for i in range(number)
                for k in range(number)
                if (i - k) % number not in (0, 1, number - 1)
            )
        case _:
            assert_never(shape)


def cut_off(ways: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The replicas that count as faulty: without them, all others hear each other.

    Found greedily, to name few: the replica with the most cut links comes first. So for a split it
    is the smaller side; without a majority it is more than f.
    """
    links = {frozenset(way) for way in ways if way[0] != way[1]}
    found: list[str] = []
    while links:
        cuts = Counter(name for link in links for name in sorted(link))
        worst = min(cuts, key=lambda name: (-cuts[name], name))
        found.append(worst)
        links = {link for link in links if worst not in link}
    return tuple(found)


def apart(shape: PartitionShape, given: Collection[str]) -> None:
    """Raises ConfigurationError if a selector that the shape needs is missing, or if one is given
    that the shape does not use."""
    wanted = {
        "one-way": {"from", "to"},
        "two-way": {"from", "to"},
        "split": {"from"},
        "bridge": {"from"},
        "ring": set[str](),
    }[shape]
    if wanted != set(given):
        says = " and ".join(sorted(wanted)) or "neither from nor to"
        raise ConfigurationError(f"net.partition: shape {shape} takes {says}")


def _product(one: Iterable[str], other: Iterable[str]) -> Ways:
    others = list(other)
    return tuple((a, b) for a in one for b in others if a != b)


def _both(ways: Ways) -> Ways:
    return tuple(dict.fromkeys((*ways, *((b, a) for a, b in ways))))
