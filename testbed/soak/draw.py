"""Draws from the seed the disturbances of the lab and their times, before anything runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from random import Random

import msgspec

from testbed.provision.layout import Node

__all__ = ["Disturbance", "DisturbanceKind", "draw"]

CALM_S = (0.5, 3.0)  # between two disturbances


class DisturbanceKind(StrEnum):
    """`kill`: kill -9 of one process. `stop`: SIGSTOP, later SIGCONT. `stop-in-turn`: a replica is
    stopped; 0.3 s after it continues, the next one is stopped. `kill-replicas`: all of them at
    once. `power-cut`: all processes of a host die at once and stay away. `disk-full`: of the whole
    lab.
    """

    KILL = "kill"
    STOP = "stop"
    STOP_IN_TURN = "stop-in-turn"
    KILL_REPLICAS = "kill-replicas"
    POWER_CUT = "power-cut"
    DISK_FULL = "disk-full"


# How often in a round, and how long it lasts in seconds.
_ROUND: Mapping[DisturbanceKind, tuple[int, tuple[float, float]]] = {
    DisturbanceKind.KILL: (5, (0, 0)),
    DisturbanceKind.STOP: (4, (1, 20)),
    DisturbanceKind.STOP_IN_TURN: (1, (4, 10)),
    DisturbanceKind.KILL_REPLICAS: (1, (0, 0)),
    DisturbanceKind.POWER_CUT: (1, (1, 5)),
    DisturbanceKind.DISK_FULL: (1, (0.5, 20)),
}


class Disturbance(msgspec.Struct, frozen=True):
    """Times in seconds from the first moment at which all devices were admitted. `targets` are
    names of processes, or of the one host whose power is cut."""

    at_s: float
    kind: DisturbanceKind
    targets: tuple[str, ...]
    for_s: float

    @property
    def end_s(self) -> float:
        turns = len(self.targets) if self.kind is DisturbanceKind.STOP_IN_TURN else 1
        return self.at_s + turns * self.for_s


def draw(
    seed: int, duration_s: float, nodes: tuple[Node, ...], *, disk: bool
) -> tuple[Disturbance, ...]:
    """One disturbance after the other until `duration_s`; equal arguments give equal disturbances.

    A round contains each kind once, then the more frequent ones; both in a drawn order. Without
    `disk`, no disturbance fills a disk.
    """
    dice = Random(seed)  # noqa: S311 - repeatable, not secret
    disturbances: list[Disturbance] = []
    deck: list[DisturbanceKind] = []
    at_s = dice.uniform(*CALM_S)
    while True:
        if not deck:
            deck = [kind for kind, (often, _) in _ROUND.items() for _ in range(often - 1)]
            dice.shuffle(deck)
            deck += dice.sample(list(DisturbanceKind), len(DisturbanceKind))
        kind = deck.pop()
        _, lasts_s = _ROUND[kind]
        each = Disturbance(at_s, kind, _targets(dice, kind, nodes), dice.uniform(*lasts_s))
        if kind is DisturbanceKind.DISK_FULL and not disk:
            continue
        if each.end_s > duration_s:
            return tuple(disturbances)
        disturbances.append(each)
        at_s = each.end_s + dice.uniform(*CALM_S)


def _targets(dice: Random, kind: DisturbanceKind, nodes: tuple[Node, ...]) -> tuple[str, ...]:
    replicas = [node.name for node in nodes if node.role == "replica"]
    match kind:
        case DisturbanceKind.KILL | DisturbanceKind.STOP:
            return (dice.choice([node.name for node in nodes]),)
        case DisturbanceKind.STOP_IN_TURN:
            return tuple(dice.sample(replicas, 2))
        case DisturbanceKind.KILL_REPLICAS:
            return tuple(replicas)
        case DisturbanceKind.POWER_CUT:
            return (dice.choice(sorted({node.host for node in nodes})),)
        case DisturbanceKind.DISK_FULL:
            return ()
