"""Draws a change of the membership: which replicas are added and removed, and when.

One replica is added, replaced or removed. No epoch on the way ever has more faulty replicas than it
tolerates.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from chain.quorum import REPLICAS_MIN, Quorum
from testbed.simulate.scenario import Event, EventKind

__all__ = ["MembershipChange", "draw_change"]

_START_US_MAX = 1_500_000  # delay from the order until an added replica's process starts


class MembershipChange(NamedTuple):
    """`sizes` are those of the epochs after the first. `lost` are replicas that fail and are
    removed."""

    events: tuple[Event, ...] = ()
    joiners: int = 0
    lost: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


def draw_change(dice: Random, n: int, traitors: frozenset[int], until_us: int) -> MembershipChange:
    """Adds a replica, removes one, or replaces one that is lost, works or lies."""
    shapes = ["add", "replace"]
    honest = [r for r in range(n) if r not in traitors]
    leaving = dice.randrange(n)
    if len(traitors) < Quorum.of(n).faulty:
        shapes.append("replace-lost")
    if n > REPLICAS_MIN and len(traitors - {leaving}) <= Quorum.of(n - 1).faulty:
        shapes.append("remove")
    shape = dice.choice(shapes)
    first_us, second_us = sorted(dice.randrange(until_us) for _ in range(2))
    add = Event(
        at_us=first_us, kind=EventKind.ADD, nodes=(n,), amount=dice.choice((0, _START_US_MAX))
    )
    lost = dice.choice(honest) if shape == "replace-lost" else leaving
    remove = Event(at_us=second_us, kind=EventKind.REMOVE, nodes=(lost,))
    match shape:
        case "add":
            return MembershipChange((add,), 1, (), (n + 1,))
        case "remove":
            return MembershipChange((remove,), 0, (), (n - 1,))
        case "replace-lost":
            return MembershipChange((add, remove), 1, (lost,), (n + 1, n))
        case _:
            return MembershipChange((add, remove), 1, (), (n + 1, n))
