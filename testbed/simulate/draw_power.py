"""The profile `power`: all honest replicas lose power at one moment, while a vote is on its way.

PREPAREs are not durable when they leave. So after a power cut soon after a request, all who voted
have lost their votes and the batches. A traitor (`hoard`) has no power cut and keeps the
certificate.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from testbed.simulate.scenario import Event, EventKind, KeptWrites, links_among

__all__ = ["draw_power"]

_CUTS_MAX = 4
_AFTER_US_MAX = 80_000  # after a request: its batch is proposed, prepared or committed
_DARK_US = (50_000, 600_000)
_FAR_US = (30_000, 100_000)


def draw_power(
    dice: Random, n: int, treacherous: Collection[int], asked_us: Sequence[int], heal_us: int
) -> list[Event]:
    """`asked_us`: when requests are made. In half of the runs, honest replicas are further from
    each other than from traitors, whose messages then come first."""
    honest = [r for r in range(n) if r not in treacherous]
    events = []
    for _ in range(dice.randint(1, _CUTS_MAX)):
        at_us = min(dice.choice(asked_us) + dice.randrange(_AFTER_US_MAX), heal_us - 1)
        dark_us = dice.randint(*_DARK_US)
        keeps = dice.choice((KeptWrites.LOST, KeptWrites.LOST, KeptWrites.TORN))
        events += [
            Event(
                at_us=at_us,
                kind=EventKind.CRASH,
                duration_us=dark_us,
                nodes=(r,),
                detail=keeps.value,
            )
            for r in honest
        ]
    if dice.random() < 0.5:
        links, amount = links_among(honest), dice.randint(*_FAR_US)
        events.append(Event(at_us=0, kind=EventKind.DELAY, links=links, amount=amount))
    return events
