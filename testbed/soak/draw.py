"""What will be done to the lab, and when: drawn from the seed before anything runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from random import Random

import msgspec

from testbed.provision.layout import Node

__all__ = ["Blow", "Kind", "draw"]

CALM_S = (0.5, 3.0)  # between two blows


class Kind(StrEnum):
    """`kill`: kill -9 of one process. `stop`: SIGSTOP, later SIGCONT. `stop-in-turn`: a replica is
    stopped, and 0.3 s after it goes on the next one is. `kill-replicas`: all of them at once.
    `power-cut`: all processes of a host die at once and stay away. `disk-full`: of the whole lab.
    """

    KILL = "kill"
    STOP = "stop"
    STOP_IN_TURN = "stop-in-turn"
    KILL_REPLICAS = "kill-replicas"
    POWER_CUT = "power-cut"
    DISK_FULL = "disk-full"


# How often in a round, and how long it lasts in seconds.
_ROUND: Mapping[Kind, int] = {
    Kind.KILL: 5,
    Kind.STOP: 4,
    Kind.STOP_IN_TURN: 1,
    Kind.KILL_REPLICAS: 1,
    Kind.POWER_CUT: 1,
    Kind.DISK_FULL: 1,
}
_LASTS_S: Mapping[Kind, tuple[float, float]] = {
    Kind.KILL: (0, 0),
    Kind.STOP: (1, 20),
    Kind.STOP_IN_TURN: (4, 10),
    Kind.KILL_REPLICAS: (0, 0),
    Kind.POWER_CUT: (1, 5),
    Kind.DISK_FULL: (0.5, 20),
}


class Blow(msgspec.Struct, frozen=True):
    """Times in seconds from the first moment at which all devices were admitted. `targets` are
    names of processes, or of the one host whose power is cut."""

    at_s: float
    kind: Kind
    targets: tuple[str, ...]
    for_s: float

    @property
    def end_s(self) -> float:
        turns = len(self.targets) if self.kind is Kind.STOP_IN_TURN else 1
        return self.at_s + turns * self.for_s


def draw(seed: int, duration_s: float, nodes: tuple[Node, ...], *, disk: bool) -> tuple[Blow, ...]:
    """One blow after the other until `duration_s`; equal arguments give equal blows.

    A round contains each kind once, then the more frequent ones; both in a drawn order. Without
    `disk` none fills it.
    """
    dice = Random(seed)  # noqa: S311 - repeatable, not secret
    blows: list[Blow] = []
    deck: list[Kind] = []
    at_s = dice.uniform(*CALM_S)
    while True:
        if not deck:
            deck = [kind for kind, often in _ROUND.items() for _ in range(often - 1)]
            dice.shuffle(deck)
            deck += dice.sample(list(Kind), len(Kind))
        kind = deck.pop()
        blow = Blow(at_s, kind, _targets(dice, kind, nodes), dice.uniform(*_LASTS_S[kind]))
        if kind is Kind.DISK_FULL and not disk:
            continue
        if blow.end_s > duration_s:
            return tuple(blows)
        blows.append(blow)
        at_s = blow.end_s + dice.uniform(*CALM_S)


def _targets(dice: Random, kind: Kind, nodes: tuple[Node, ...]) -> tuple[str, ...]:
    replicas = [node.name for node in nodes if node.role == "replica"]
    match kind:
        case Kind.KILL | Kind.STOP:
            return (dice.choice([node.name for node in nodes]),)
        case Kind.STOP_IN_TURN:
            return tuple(dice.sample(replicas, 2))
        case Kind.KILL_REPLICAS:
            return tuple(replicas)
        case Kind.POWER_CUT:
            return (dice.choice(sorted({node.host for node in nodes})),)
        case Kind.DISK_FULL:
            return ()
