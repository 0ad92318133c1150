"""Timers on an asyncio loop: one per name, fired names are handed over in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["LoopTimers"]


class LoopTimers:
    """Implements `ports.Timers`. `on_fired` says that `take` has something."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_fired: Callable[[], None]) -> None:
        self._loop = loop
        self._on_fired = on_fired
        self._armed: dict[str, asyncio.TimerHandle] = {}
        self._fired: dict[str, None] = {}

    def set(self, name: str, delay_us: int) -> None:
        self.cancel(name)
        self._armed[name] = self._loop.call_later(delay_us / 1_000_000, self._fire, name)

    def cancel(self, name: str) -> None:
        handle = self._armed.pop(name, None)
        if handle is not None:
            handle.cancel()
        self._fired.pop(name, None)

    def take(self) -> list[str]:
        """Names that fired and were neither set again nor cancelled since."""
        fired, self._fired = self._fired, {}
        return list(fired)

    def close(self) -> None:
        for name in list(self._armed):
            self.cancel(name)

    def _fire(self, name: str) -> None:
        del self._armed[name]
        self._fired[name] = None
        self._on_fired()
