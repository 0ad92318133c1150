"""The profile `stop`: one backup after another stands still for seconds, under a steady load.

A process that is stopped (SIGSTOP) keeps its state, and its frames wait. Only one stands still at a
time, so the chain must never stand still for long: a backup that is back must vote again before the
next one stops.
"""

from __future__ import annotations

from random import Random

import msgspec

from chain.genesis import Consensus
from testbed.simulate.scenario import Event, EventKind, Scenario, request

__all__ = ["draw_stops"]

_REQUEST_US = 77_000  # 13 requests a second
_START_US = 2_000_000
_STOP_US = (3_000_000, 10_000_000)
_BACK_US = (250_000, 500_000)  # between two stops
_STOPS = 3
_GAP_TIMEOUTS = 2


def draw_stops(dice: Random, scenario: Scenario) -> Scenario:
    """The same network, but the only faults are stops, and the consensus parameters are the
    product's."""
    consensus = Consensus()
    stops, at_us, last = [], _START_US, 0
    for _ in range(_STOPS):
        last = dice.choice([r for r in range(1, scenario.replicas) if r != last])
        duration_us = dice.randint(*_STOP_US)
        stops.append(
            Event(at_us=at_us, kind=EventKind.PAUSE, duration_us=duration_us, nodes=(last,))
        )
        at_us += duration_us + dice.randint(*_BACK_US)
    requests = [
        request(number * _REQUEST_US, number % scenario.devices, number)
        for number in range(at_us // _REQUEST_US)
    ]
    return msgspec.structs.replace(
        scenario,
        consensus=consensus,
        events=tuple(sorted([*requests, *stops], key=lambda event: event.at_us)),
        heal_us=at_us,
        gap_us_max=_GAP_TIMEOUTS * consensus.view_timeout_us,
    )
