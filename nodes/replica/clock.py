"""The machine's clock. Only `__main__`-level code builds it."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    def now_us(self) -> int:
        """Wall time, microseconds since 1970."""
        return time.time_ns() // 1000

    def monotonic_us(self) -> int:
        """Microseconds, for durations."""
        return time.monotonic_ns() // 1000
