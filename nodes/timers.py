"""Timers on an asyncio loop: one per name, fired names are handed over in order.

A timer that fires is judged only after what had arrived by then: a process that is behind with its
own input, because it gets too little of the processor, has no reason to suspect others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["LoopTimers"]


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
        self._fired: dict[str, int] = {}  # and how many frames had arrived by then

    def set(self, name: str, delay_us: int) -> None:
        self.cancel(name)
        self._armed[name] = self._loop.call_later(delay_us / 1_000_000, self._due, name)

    def cancel(self, name: str) -> None:
        handle = self._armed.pop(name, None)
        if handle is not None:
            handle.cancel()
        self._fired.pop(name, None)

    def take(self, handled: int) -> list[str]:
        """Names that fired and were neither set again nor cancelled since, if the first `handled`
        frames are all that had arrived by then."""
        fired = [name for name, arrived in self._fired.items() if arrived <= handled]
        for name in fired:
            del self._fired[name]
        return fired

    def close(self) -> None:
        for name in list(self._armed):
            self.cancel(name)

    def _due(self, name: str) -> None:
        """The loop may run timers before it reads: first let it look at its sockets once."""
        self._armed[name] = self._loop.call_soon(self._read, name)

    def _read(self, name: str) -> None:
        self._armed[name] = self._loop.call_soon(self._fire, name)

    def _fire(self, name: str) -> None:
        del self._armed[name]
        self._fired[name] = self._arrived()
        self._on_fired()
