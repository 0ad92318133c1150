"""The seam `clock` of a replica: while an order is in force, its wall clock is wrong.

Its monotonic clock stays right, as on a machine whose time is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from nodes.ports import Clock

__all__ = ["ClockOrder", "ClockSeam"]

STEP_MS_MAX = 10 * 365 * 86_400_000
DRIFT_PPM_MAX = 500_000


class ClockOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`step_ms`: how far it is ahead. `drift_ppm`: how much too fast it runs from then on."""

    step_ms: Annotated[int, msgspec.Meta(ge=-STEP_MS_MAX, le=STEP_MS_MAX)] = 0
    drift_ppm: Annotated[int, msgspec.Meta(ge=-DRIFT_PPM_MAX, le=DRIFT_PPM_MAX)] = 0


class ClockSeam(Clock):
    """Wraps the real clock. Without an order it gives the real time; several orders add up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._orders: dict[str, tuple[ClockOrder, int]] = {}  # and the monotonic time of its start

    def take(self, orders: Mapping[str, ClockOrder]) -> None:
        """Replaces the orders in force."""
        since_us = self._clock.monotonic_us()
        before = self._orders
        self._orders = {
            name: before[name] if before.get(name, (None,))[0] == order else (order, since_us)
            for name, order in orders.items()
        }

    def now_us(self) -> int:
        return self._clock.now_us() + self._wrong_us() if self._orders else self._clock.now_us()

    def monotonic_us(self) -> int:
        return self._clock.monotonic_us()

    def _wrong_us(self) -> int:
        now_us = self._clock.monotonic_us()
        return sum(
            order.step_ms * 1000 + order.drift_ppm * (now_us - since_us) // 1_000_000
            for order, since_us in self._orders.values()
        )
