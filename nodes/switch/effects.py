"""The seam `effects` of a replica: while an order is in force, it lies (`nodes.byzantine`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from chain.pbft.effects import Effect
from nodes.byzantine.config import Byzantine, Trick
from nodes.byzantine.wrapper import Misbehaviour
from nodes.ports import Events
from nodes.replica.driver import Delayed

__all__ = ["REPORT_S", "EffectsSeam"]

REPORT_S = 0.5  # between two logs of the count of acts, at least


class EffectsSeam:
    """`make` builds the wrapper that an order asks for. `rewrite` is called with every list of
    effects; without an order they pass unchanged. Of several orders the newest counts."""

    def __init__(
        self,
        make: Callable[[Byzantine], Misbehaviour],
        events: Events,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._events = events
        self._now_s = now_s
        self._report_at_s = 0.0
        self._reported_acts = 0
        self._wanted: Byzantine | None = None
        self._acting: Misbehaviour | None = None

    def take(self, orders: Mapping[str, Byzantine]) -> None:
        """Replaces the orders in force; the newest is last."""
        wanted = next(reversed(list(orders.values())), None)
        if wanted == self._wanted:
            return
        if self._acting is not None:
            self._events.emit("honest", trick=self._trick, acts=self._acting.acts)
        self._wanted, self._acting, self._reported_acts = wanted, None, 0
        if wanted is not None:
            self._acting = self._make(wanted)
            self._events.emit("byzantine", trick=wanted.trick)

    def rewrite(self, effects: list[Effect]) -> Sequence[Effect | Delayed]:
        """The effects to carry out instead of `effects`."""
        if self._acting is None:
            return effects
        changed = self._acting.rewrite(effects)
        now_s = self._now_s()
        if self._acting.acts != self._reported_acts and now_s >= self._report_at_s:
            self._report_at_s = now_s + REPORT_S
            self._reported_acts = self._acting.acts
            self._events.emit("byzantine-acts", trick=self._trick, acts=self._reported_acts)
        return changed

    @property
    def _trick(self) -> Trick | None:
        return None if self._wanted is None else self._wanted.trick
