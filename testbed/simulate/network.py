"""The simulated network: delay, loss, duplication, reordering and blocked links.

The network is harsher than the TCP that boards use: frames of one link may overtake each other. The
scenario's events (`testbed.simulate.scenario`) disturb links. All random numbers come from the
run's one random source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import msgspec

from testbed.simulate.scenario import Event, EventKind
from testbed.simulate.timeline import Timeline

__all__ = ["Link", "Network", "healthy"]

Link = tuple[int, int]  # from, to

DELAY_US_MIN = 500
_DUPLICATE_GAP_US = 20_000


def healthy(spread_us: int) -> Callable[[Random], int]:
    """0.5 ms to 0.5 ms + `spread_us`."""
    return lambda random: DELAY_US_MIN + int(random.random() * spread_us)


class _Trouble(msgspec.Struct):
    """What happens to one link now: sums over the events in force, so each event can end alone."""

    blocked: int = 0
    loss_pct: int = 0
    duplicate_pct: int = 0
    delay_us: int = 0

    def add(self, event: Event, sign: int) -> None:
        match event.kind:
            case EventKind.BLOCK:
                self.blocked += sign
            case EventKind.LOSS:
                self.loss_pct += sign * event.amount
            case EventKind.DUPLICATE:
                self.duplicate_pct += sign * event.amount
            case EventKind.DELAY:
                self.delay_us += sign * event.amount
            case _:
                raise AssertionError(f"{event.kind} is not a link's trouble")


class Network:
    """Carries frames between endpoints (replica or gateway numbers)."""

    def __init__(
        self,
        timeline: Timeline,
        random: Random,
        deliver: Callable[[int, int, bytes], None],
        delay_us: Callable[[Random], int],
    ) -> None:
        """`deliver(to, sender, frame)`; `delay_us` draws what a healthy link takes."""
        self._timeline = timeline
        self._dice = random
        self._random = random.random
        self._deliver = deliver
        self._delay_us = delay_us
        self._troubles: dict[Link, _Trouble] = {}
        self.counts: Counter[str] = Counter()

    def send(self, sender: int, to: int, frame: bytes) -> None:
        random = self._random
        delay_us = self._delay_us(self._dice)
        trouble = self._troubles.get((sender, to)) if self._troubles else None
        if trouble is not None:
            if trouble.blocked or random() * 100 < trouble.loss_pct:
                self.counts["lost"] += 1
                return
            if trouble.delay_us:
                self.counts["delayed"] += 1
                delay_us += int(random() * trouble.delay_us)
            if random() * 100 < trouble.duplicate_pct:
                self.counts["duplicated"] += 1
                again_us = delay_us + int(random() * _DUPLICATE_GAP_US)
                self._timeline.after(again_us, self._deliver, to, sender, frame)
        self._timeline.after(delay_us, self._deliver, to, sender, frame)

    def disturb(self, event: Event) -> None:
        for link in event.links:
            self._troubles.setdefault(link, _Trouble()).add(event, 1)

    def lift(self, event: Event) -> None:
        for link in event.links:
            trouble = self._troubles[link]
            trouble.add(event, -1)
            if trouble == _Trouble():
                del self._troubles[link]
