"""Exploration strategies: they disturb the network by a plan instead of at random.

Each takes the scenario that `draw` made and keeps its load, crashes and disks. It replaces the
temporary network faults by its own schedule; permanent ones stay. The schedule is drawn before the
run.

- `pct` (Burckhardt et al., ASPLOS 2010): links have random priorities, which fall at d moments.
- `twins` (Bano et al., OPODIS 2021): f replicas run twice; every round has another partition.
- `byzzfuzz` (Winter et al., OOPSLA 2023): few rounds are cut, and f replicas make small changes to
  few messages (`small_scope`).

`attacks.ATTACKS` has further strategies: those of an attacker who knows the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import msgspec

from testbed.simulate.attacks import ATTACKS
from testbed.simulate.scenario import (
    NETWORK_KINDS,
    Event,
    EventKind,
    Links,
    Scenario,
    Traitor,
    links_among,
)

__all__ = ["STRATEGIES"]

_CHANGES_MAX = 5  # changes of priorities: the depth of the bugs to find
_CLASSES_US = (0, 20_000, 150_000, 900_000)  # delay of the links of each priority
_ROUND_US = (20_000, 60_000)  # one phase of the protocol over simulated links
_CUT_ROUNDS_MAX = 6


def _pct(dice: Random, scenario: Scenario) -> Scenario:
    links = links_among(range(scenario.machines))
    ranks = {link: rank for rank, link in enumerate(dice.sample(links, len(links)))}
    moments = sorted(dice.randrange(scenario.heal_us) for _ in range(dice.randint(1, _CHANGES_MAX)))
    events: list[Event] = []
    for start_us, stop_us in zip([0, *moments], [*moments, scenario.heal_us], strict=True):
        for place, late_us in enumerate(_CLASSES_US):
            slow = tuple(link for link in links if _class(ranks[link], len(links)) == place)
            if late_us and slow and stop_us > start_us:
                events.append(
                    Event(
                        at_us=start_us,
                        kind=EventKind.DELAY,
                        duration_us=stop_us - start_us,
                        links=slow,
                        amount=late_us,
                    )
                )
        lowered = dice.randrange(scenario.machines)  # everything from one replica comes last
        ranks = {link: rank + len(links) * (link[0] == lowered) for link, rank in ranks.items()}
    return _disturbed(scenario, events)


def _class(rank: int, count: int) -> int:
    """The delay class of a link. Half of the links are on time; a higher rank gives a higher
    class."""
    return min(2 * rank // count, len(_CLASSES_US) - 1)


def _twins(dice: Random, scenario: Scenario) -> Scenario:
    events, at_us = [], 0
    while at_us < scenario.heal_us:
        stop_us = min(at_us + scenario.consensus.view_timeout_us, scenario.heal_us)
        events.append(_cut(at_us, stop_us, _partition(dice, scenario)))
        at_us = stop_us
    return _disturbed(_betrayed(dice, scenario, "twins"), events)


def _byzzfuzz(dice: Random, scenario: Scenario) -> Scenario:
    events = []
    for _ in range(dice.randint(0, _CUT_ROUNDS_MAX)):
        at_us = dice.randrange(scenario.heal_us)
        stop_us = min(at_us + dice.randint(*_ROUND_US), scenario.heal_us)
        events.append(_cut(at_us, stop_us, _partition(dice, scenario)))
    return _disturbed(_betrayed(dice, scenario, "small-scope"), events)


STRATEGIES: dict[str, Callable[[Random, Scenario], Scenario]] = {
    "random": lambda dice, scenario: scenario,
    "byzzfuzz": _byzzfuzz,
    "pct": _pct,
    "twins": _twins,
    **ATTACKS,
}


def _partition(dice: Random, scenario: Scenario) -> Links:
    """A partition into two or three groups."""
    replicas = range(scenario.machines)
    group = [dice.randrange(dice.choice((2, 3))) for _ in replicas]
    return tuple((a, b) for a, b in links_among(replicas) if group[a] != group[b])


def _cut(at_us: int, stop_us: int, links: Links) -> Event:
    return Event(at_us=at_us, kind=EventKind.BLOCK, duration_us=stop_us - at_us, links=links)


def _betrayed(dice: Random, scenario: Scenario, trick: str) -> Scenario:
    """Adds this trick to the scenario's traitors. If it has none, and no replica will be lost, f
    replicas become traitors."""
    traitors = tuple(
        Traitor(each.replica, tuple(sorted({*each.tricks, trick}))) for each in scenario.traitors
    )
    whole = set(scenario.survivors) == set(range(scenario.replicas)) and not scenario.joiners
    if (
        not traitors
        and whole
        and not any(event.kind is EventKind.WIPE for event in scenario.events)
    ):
        liars = dice.sample(range(scenario.replicas), scenario.quorum.faulty)
        traitors = tuple(Traitor(liar, (trick,)) for liar in sorted(liars))
        survivors = tuple(r for r in scenario.survivors if r not in liars)
        return msgspec.structs.replace(scenario, traitors=traitors, survivors=survivors)
    return msgspec.structs.replace(scenario, traitors=traitors)


def _disturbed(scenario: Scenario, events: Sequence[Event]) -> Scenario:
    kept = [e for e in scenario.events if e.kind not in NETWORK_KINDS or not e.duration_us]
    ordered = tuple(sorted([*kept, *events], key=lambda event: event.at_us))
    return msgspec.structs.replace(scenario, events=ordered)
