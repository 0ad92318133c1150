"""Attacks of a strategist, who knows the protocol: each a strategy with a scenario of its own.

They keep the network and the parameters of the seed, but replace load, traitors and faults by their
own. Each would break a bound if the rule against it were missing; for the first two this bound is
the time within which everything must be done (`Scenario.patience_us`).

- `slow-primary`: the first primary holds each proposal back until just before the timeout
  (Aardvark, NSDI 2009). It must lose its view, because requests that arrive meanwhile wait longer
  than the timeout.
- `dribble`: one source sends a replica that catches up one block at a time, each just before the
  replica would ask another source. It must ask the others.
- `outrun`: the thief of a device hears that its revocation is on the way, and renews to another key
  over faster links. So the revocation must end the device, not only the key.
- `late-equivocation`: replicas contradict their votes of an epoch that is over, while others are
  still in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import msgspec

from chain.pbft.transfer import PIECE_BLOCKS
from testbed.simulate.scenario import GATEWAY, Event, EventKind, Links, Scenario, Traitor, request

__all__ = ["ATTACKS"]

_START_US = 2_000_000  # every device is enrolled
_SLOW_TIMEOUTS = 20  # within which a primary is replaced and everything is done
_SLOW_START_TIMEOUTS = 4  # until both are enrolled
_SLOW_REQUESTS = 20  # of each device, one after another
_CATCH_UP_TICKS = 18  # status intervals; the source alone would need 11 or more for a piece
_MISSED_REQUESTS = 96  # each is a block
_OUTRUN_US = 40_000
_OUTRUN_REQUESTS = 30
_ORDER_LATE_US = 300_000


def _slow_primary(dice: Random, scenario: Scenario) -> Scenario:
    """Two devices with one request at a time each, so that slowness adds up. The second device
    always asks while the first one's request is held back. Gateways soon send to all replicas,
    because a backup times only requests that it has received."""
    timeout_us = scenario.consensus.view_timeout_us
    start_us = _SLOW_START_TIMEOUTS * timeout_us
    second_us = start_us + dice.randint(timeout_us // 4, timeout_us // 2)
    requests = (
        request(at_us, device, number)
        for device, at_us in enumerate((start_us, second_us))
        for number in range(_SLOW_REQUESTS)
    )
    return msgspec.structs.replace(
        _planned(scenario, requests, "slow-primary", [0]),
        consensus=msgspec.structs.replace(
            scenario.consensus, pipeline_window=1, batch_requests_max=32
        ),
        devices=2,
        heal_us=second_us,
        patience_us=_SLOW_TIMEOUTS * timeout_us,
        retry_us=timeout_us // 20,
    )


def _dribble(dice: Random, scenario: Scenario) -> Scenario:
    """One honest replica is cut off until everything has happened."""
    liars = dice.sample(range(scenario.replicas), scenario.quorum.faulty)
    cut = dice.choice([r for r in range(scenario.replicas) if r not in liars])
    heal_us = 6_000_000
    requests = (
        request(at_us, dice.randrange(scenario.devices), at_us)
        for at_us in range(_START_US, heal_us, (heal_us - _START_US) // _MISSED_REQUESTS)
    )
    alone = Event(at_us=0, kind=EventKind.BLOCK, duration_us=heal_us, links=_of(scenario, cut))
    return msgspec.structs.replace(
        _planned(scenario, [alone, *requests], "dribble", liars),
        consensus=msgspec.structs.replace(
            scenario.consensus, batch_requests_max=1, checkpoint_interval=PIECE_BLOCKS
        ),
        heal_us=heal_us,
        patience_us=_CATCH_UP_TICKS * scenario.consensus.status_interval_us,
        keep_data_blocks=None,
    )


def _outrun(dice: Random, scenario: Scenario) -> Scenario:
    """The administrator's gateway has slow links; the gateway of device 1 does not."""
    at_us = _START_US + dice.randrange(1_000_000)
    far = tuple((GATEWAY, replica) for replica in range(scenario.replicas))
    stolen = Event(at_us=at_us, kind=EventKind.REVOKE, nodes=(1,))
    late = Event(
        at_us=0,
        kind=EventKind.DELAY,
        duration_us=at_us + 1_000_000,
        links=far,
        amount=_ORDER_LATE_US,
    )
    thief = [
        request(at_us + _OUTRUN_US * number, 1, number, "outrun")
        for number in range(_OUTRUN_REQUESTS)
    ]
    others = [request(dice.randrange(scenario.heal_us), 0, number) for number in range(10)]
    planned = _planned(scenario, [stolen, late, *thief, *others], "", [])
    return msgspec.structs.replace(planned, devices=max(2, scenario.devices))


def _late_equivocation(dice: Random, scenario: Scenario) -> Scenario:
    """A replica is added. Another one is cut off, so it stays in the epoch before."""
    liars = dice.sample(range(scenario.replicas), scenario.quorum.faulty)
    behind = dice.choice([r for r in range(scenario.replicas) if r not in liars])
    at_us = _START_US + dice.randrange(1_000_000)
    back_us = at_us + dice.randint(300_000, 2_500_000)
    heal_us = max(scenario.heal_us, back_us)
    requests = [
        request(dice.randrange(heal_us), dice.randrange(scenario.devices), number)
        for number in range(40)
    ]
    add = Event(at_us=at_us, kind=EventKind.ADD, nodes=(scenario.replicas,))
    cut = Event(
        at_us=at_us,
        kind=EventKind.BLOCK,
        duration_us=back_us - at_us,
        links=_of(scenario, behind),
    )
    planned = _planned(scenario, [add, cut, *requests], "late-equivocation", liars)
    return msgspec.structs.replace(
        planned,
        heal_us=heal_us,
        joiners=1,
        skews_us=(0,) * (scenario.replicas + 1),
        survivors=(*planned.survivors, scenario.replicas),
    )


ATTACKS: dict[str, Callable[[Random, Scenario], Scenario]] = {
    "slow-primary": _slow_primary,
    "dribble": _dribble,
    "outrun": _outrun,
    "late-equivocation": _late_equivocation,
}


def _planned(
    scenario: Scenario, events: Iterable[Event], trick: str, liars: Iterable[int]
) -> Scenario:
    """The scenario with only these events and traitors."""
    traitors = tuple(Traitor(liar, (trick,)) for liar in sorted(liars))
    faulty = {traitor.replica for traitor in traitors}
    return msgspec.structs.replace(
        scenario,
        events=tuple(sorted(events, key=lambda event: event.at_us)),
        traitors=traitors,
        survivors=tuple(r for r in range(scenario.replicas) if r not in faulty),
        joiners=0,
        gap_us_max=0,
        skews_us=(0,) * scenario.replicas,
    )


def _of(scenario: Scenario, replica: int) -> Links:
    """All links between a replica and the others."""
    others = [each for each in range(scenario.machines) if each != replica]
    return tuple(link for each in others for link in ((replica, each), (each, replica)))
