"""Requests that wait for a place in a batch, or for something they refer to.

The number that may wait is bounded per client and per source (this replica's own clients, or the
peer that forwarded them). So a client that floods fills its own share only, and so does a peer.
"""

from __future__ import annotations

import msgspec

from chain.pbft.effects import Refusal
from chain.pbft.state_machine import Screening, VerifiedRequest

__all__ = [
    "CLIENT_WAITING_MAX",
    "LATER_MAX",
    "OWN_CLIENTS",
    "WAITING_MAX",
    "Pool",
    "Waiting",
]

WAITING_MAX = 8192  # requests
CLIENT_WAITING_MAX = 1024  # requests of one client from one source
LATER_MAX = 128  # requests of one source that refer to something not yet known
LATER_TICKS_MAX = 20  # status intervals that such a request is kept
OWN_CLIENTS = -1  # the source of requests that did not come from another replica


class Waiting(msgspec.Struct, gc=False):
    request: VerifiedRequest
    source: int
    since_us: int
    ticks: int = 0  # status intervals it has waited (`fresh`: at the head of the queue)


class Pool:
    """`fresh` waits for a proposal, oldest first. `later` refers to something not yet known.
    `proposed` stands in the proposal of the given sequence number."""

    def __init__(self) -> None:
        self.fresh: dict[bytes, Waiting] = {}
        self.later: dict[bytes, Waiting] = {}
        self.proposed: dict[bytes, int] = {}
        self._counts: dict[tuple[int, bytes], int] = {}
        self._later_of: dict[int, int] = {}

    def knows(self, request: bytes) -> bool:
        return request in self.proposed or request in self.fresh or request in self.later

    def add(
        self, request: VerifiedRequest, source: int, verdict: Screening, now_us: int
    ) -> Refusal | None:
        """Adds the request. Returns None, or the reason why it may not wait."""
        if verdict is Screening.DONE:
            return "done"
        if verdict is not Screening.READY and verdict is not Screening.LATER:
            return "refused"
        share = (source, request.client)
        waiting = self._counts.get(share, 0)
        if waiting >= self._share_max():
            return "busy"
        if verdict is Screening.LATER:
            if self._later_of.get(source, 0) >= LATER_MAX:
                return "busy"
            self._later_of[source] = self._later_of.get(source, 0) + 1
            self.later[request.id] = Waiting(request, source, now_us)
        else:
            self.fresh[request.id] = Waiting(request, source, now_us)
        self._counts[share] = waiting + 1
        return None

    def _share_max(self) -> int:
        """Once the queue is half full, all that wait get an equal share of the other half."""
        if 2 * len(self.fresh) < WAITING_MAX:
            return CLIENT_WAITING_MAX
        if len(self.fresh) >= WAITING_MAX:
            return 0
        return max(1, WAITING_MAX // (2 * len(self._counts)))

    def _uncount(self, entry: Waiting) -> None:
        share = (entry.source, entry.request.client)
        left = self._counts[share] - 1
        if left:
            self._counts[share] = left
        else:
            del self._counts[share]

    def drop(self, request: bytes) -> None:
        """Removes the request if it waits."""
        entry = self.fresh.pop(request, None)
        if entry is None and self.later:
            entry = self.later.pop(request, None)
            if entry is not None:
                self._later_of[entry.source] -= 1
        if entry is not None:
            self._uncount(entry)

    def propose(self, request: bytes, seq: int) -> None:
        """The request is in the proposal of `seq` now."""
        self.drop(request)
        self.proposed[request] = seq

    def withdraw(self, request: bytes, seq: int) -> bool:
        """The proposal of `seq` was not executed. True if the request was in it."""
        if self.proposed.get(request) != seq:
            return False
        del self.proposed[request]
        return True

    def oldest(self) -> Waiting | None:
        return next(iter(self.fresh.values()), None)

    def age_later(self) -> list[Waiting]:
        """A status interval has passed. Drops and returns those whose time is over."""
        over = []
        for entry in self.later.values():
            entry.ticks += 1
            if entry.ticks > LATER_TICKS_MAX:
                over.append(entry)
        for entry in over:
            self.drop(entry.request.id)
        return over
