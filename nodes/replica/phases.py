"""When a block reached each phase, from the core's observations and the driver's actions.

One event per block, and a hop of the trace for each phase. Other observations (view changes,
checkpoints, fetching) become events as they are.
"""

from __future__ import annotations

from chain.block import Head
from chain.pbft.effects import Observation
from gateway.hops import NO_TRACE, Hop, Trace
from nodes.ports import Clock, Events

__all__ = ["Phases"]

_HOPS: dict[Observation, Hop] = {
    "proposed": Hop.PROPOSED,
    "pre-prepared": Hop.PRE_PREPARED,
    "prepared": Hop.PREPARED,
    "committed": Hop.COMMITTED,
}

# A block and where it was: height, view, epoch.
_Place = tuple[int, int, int]


class Phases:
    """Makes at most one event per block out of observations: the time of each phase."""

    _SPANS_MAX = 1024  # sequences in flight; older ones are forgotten

    def __init__(self, events: Events, clock: Clock, trace: Trace = NO_TRACE) -> None:
        self._events = events
        self._clock = clock
        self._trace = trace
        self._spans: dict[int, tuple[int, dict[str, int]]] = {}  # by height: view, phases
        self._prepared: _Place = (0, 0, 0)  # the newest
        self._voted: list[_Place] = []  # certificates that wait to be synced, then to be sent
        self._synced_ns = 0
        self._sealed: list[_Place] = []

    def observe(self, what: Observation, view: int, seq: int, epoch: int) -> None:
        hop = _HOPS.get(what)
        if hop is None:
            self._events.emit(what, view=view, seq=seq, epoch=epoch)
            return
        self._trace.block(hop, seq, view=view, epoch=epoch)
        if hop is Hop.PREPARED:
            self._prepared = (seq, view, epoch)
        known = self._spans.get(seq)
        if known is None or (known[0] != view and hop in (Hop.PROPOSED, Hop.PRE_PREPARED)):
            # Proposed again in a later view: times of another primary mean nothing now.
            known = self._spans[seq] = (view, {})
        known[1][what] = self._clock.monotonic_us()
        if len(self._spans) > self._SPANS_MAX:
            del self._spans[next(iter(self._spans))]

    def executed(self, head: Head) -> None:
        """`*_us` are from the moment this replica proposed or accepted the PRE-PREPARE."""
        view, span = self._spans.pop(head.height, (head.view, {}))
        self._trace.block(Hop.EXECUTED, head.height, view=view, epoch=head.epoch)
        self._sealed.append((head.height, view, head.epoch))
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

    def voted(self) -> None:
        """The newest prepared certificate is to be synced before its COMMIT leaves."""
        if self._prepared[0]:
            self._voted.append(self._prepared)
            self._prepared = (0, 0, 0)

    def synced(self) -> None:
        """The store was synced. May be called in another thread."""
        self._synced_ns = self._trace.now_ns()

    def sent(self) -> None:
        """Everything that waited has left."""
        if self._voted:
            now_ns = self._trace.now_ns()
            for height, view, epoch in self._voted:
                self._trace.block(Hop.SYNCED, height, self._synced_ns, view, epoch)
                self._trace.block(Hop.COMMIT_SENT, height, now_ns, view, epoch)
            self._voted.clear()
        for height, view, epoch in self._sealed:
            self._trace.block(Hop.SEALED, height, view=view, epoch=epoch)
        self._sealed.clear()
