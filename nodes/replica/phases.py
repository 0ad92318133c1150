"""What each phase of a block took, from the core's observations: one event per block.

Other observations (view changes, checkpoints, fetching) become events as they are.
"""

from __future__ import annotations

from chain.block import Head
from nodes.ports import Clock, Events

__all__ = ["Phases"]


class Phases:
    """Makes at most one event per block out of observations: what each phase took."""

    _SPANS_MAX = 1024  # sequences in flight; older ones are forgotten

    def __init__(self, events: Events, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._spans: dict[int, dict[str, int]] = {}

    def observe(self, what: str, view: int, seq: int) -> None:
        if what not in ("proposed", "pre-prepared", "prepared", "committed"):
            self._events.emit(what, view=view, seq=seq)
            return
        span = self._spans.setdefault(seq, {})
        span[what] = self._clock.monotonic_us()
        if len(self._spans) > self._SPANS_MAX:
            del self._spans[next(iter(self._spans))]

    def executed(self, head: Head) -> None:
        """`*_us` are from the moment this replica proposed or accepted the PRE-PREPARE."""
        span = self._spans.pop(head.height, {})
        now_us = self._clock.monotonic_us()
        first_us = min(span.values(), default=now_us)
        took = {f"{what.replace('-', '_')}_us": at - first_us for what, at in span.items()}
        self._events.emit(
            "block",
            height=head.height,
            count=head.count,
            view=head.view,
            time_us=head.time_us,
            **took,
            executed_us=now_us - first_us,
        )
