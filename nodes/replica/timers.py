"""Timers on an asyncio loop: one per name; names that fired are handed over in order.

A timer that fires is handled only after the frames that had arrived by then. A process that is
behind with its own input, because it gets too little of the processor, has no reason to suspect
others. It waits for a few turns only: if frames still wait then, they are a flood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["TURNS_MAX", "Fired", "LoopTimers"]

TURNS_MAX = 8  # the most that a timer waits after it fired


class Fired:
    """Timers that fired, each with how many frames had arrived by then."""

    def __init__(self) -> None:
        self._names: dict[str, tuple[int, int]] = {}  # frames, turns left

    def add(self, name: str, arrived: int) -> None:
        self._names[name] = (arrived, TURNS_MAX)

    def discard(self, name: str) -> None:
        self._names.pop(name, None)

    def clear(self) -> None:
        self._names.clear()

    def take(self, handled: int) -> list[str]:
        """To be called once a turn. Names that may be handled now: the first `handled` frames are
        all that had arrived when they fired, or they have waited long enough."""
        ripe = []
        for name, (arrived, turns) in [*self._names.items()]:
            if arrived <= handled or turns <= 1:
                del self._names[name]
                ripe.append(name)
            else:
                self._names[name] = (arrived, turns - 1)
        return ripe


class LoopTimers:
    """Implements `ports.Timers`. `arrived` counts the frames that have arrived so far; `on_fired`
    says that `take` may have something."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        arrived: Callable[[], int],
        on_fired: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._arrived = arrived
        self._on_fired = on_fired
        self._armed: dict[str, asyncio.Handle] = {}
        self._fired = Fired()

    def set(self, name: str, delay_us: int) -> None:
        self.cancel(name)
        self._armed[name] = self._loop.call_later(delay_us / 1_000_000, self._due, name)

    def cancel(self, name: str) -> None:
        handle = self._armed.pop(name, None)
        if handle is not None:
            handle.cancel()
        self._fired.discard(name)

    def take(self, handled: int) -> list[str]:
        """Names that fired and were neither set again nor cancelled since; see `Fired.take`."""
        return self._fired.take(handled)

    def close(self) -> None:
        for name in list(self._armed):
            self.cancel(name)

    def _due(self, name: str) -> None:
        """The loop may run timers before it reads its sockets, so it gets one round to read."""
        self._armed[name] = self._loop.call_soon(self._read, name)

    def _read(self, name: str) -> None:
        self._armed[name] = self._loop.call_soon(self._fire, name)

    def _fire(self, name: str) -> None:
        del self._armed[name]
        self._fired.add(name, self._arrived())
        self._on_fired()
