"""Virtual time: actions run in the order of time. Actions with equal times run in the order in
which they were added."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

__all__ = ["Timeline"]


class Timeline:
    """An event heap. `now_us` is virtual microseconds since the start of the run."""

    def __init__(self) -> None:
        self.now_us = 0
        self.steps = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def after(self, delay_us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Calls `action(*arguments)` when `delay_us` has passed."""
        self._asked += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._asked, action, arguments))

    def at(self, when_us: int, action: Callable[..., None], *arguments: Any) -> None:
        self._asked += 1
        # The count decides between equal times, so that actions are never compared.
        heapq.heappush(self._heap, (when_us, self._asked, action, arguments))

    def run(self, until_us: int, steps_max: int) -> bool:
        """Runs the next `steps_max` actions. Returns False if none is left up to `until_us`; the
        time is then `until_us`."""
        heap = self._heap
        pop = heapq.heappop
        for _ in range(steps_max):
            if not heap or heap[0][0] > until_us:
                self.now_us = max(self.now_us, until_us)
                return False
            self.now_us, _, action, arguments = pop(heap)
            self.steps += 1
            action(*arguments)
        return True
