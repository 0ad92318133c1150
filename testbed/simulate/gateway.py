"""A simulated gateway: submits signed requests, collects seals, and reports final blocks.

It sends a request to the replica that it believes to be the primary, and to all replicas if no
block comes in time (OSDI'99, section 4.1). Only `chain.proofs.client` decides what is final.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis, Membership
from chain.keys import Scheme
from chain.ledger.ledger import Ledger
from chain.pbft.messages import Seal, Submit, Subscribe, decode_client, encode
from chain.proofs.client import Final, FinalityTracker
from testbed.simulate.timeline import Timeline

__all__ = ["Gateway"]

_TICK_US = 400_000
RETRY_US_MAX = 3_200_000
WAITING_MAX = 256


class _Waiting(msgspec.Struct):
    """A request that is in no final block yet."""

    frame: bytes
    due_us: int
    wait_us: int


class Gateway:
    """It has two outputs: `send(replica, frame)` and `on_final(final)`."""

    def __init__(
        self,
        timeline: Timeline,
        scheme: Scheme,
        genesis: Genesis,
        *,
        send: Callable[[int, bytes], None],
        on_final: Callable[[Final], None],
        copy: Ledger | None,
        retry_us: int,
    ) -> None:
        """`copy` follows the epochs. It is None in runs without membership changes. A request
        without a block goes to all replicas after `retry_us`."""
        self._retry_us = retry_us
        self._timeline = timeline
        self._copy = copy
        self._tracker = FinalityTracker(genesis.membership, genesis, scheme)
        self._send = send
        self._on_final = on_final
        self._views: dict[int, int] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._told_height = -1

    @property
    def head_hash(self) -> bytes:
        return self._tracker.head_hash

    @property
    def membership(self) -> Membership:
        """The membership for the block after the last final one."""
        return self._tracker.membership

    def start(self) -> None:
        self._subscribe()
        self._timeline.after(_TICK_US, self._tick)

    def submit(self, request: bytes, cose: bytes) -> None:
        """`request` is its id; it is sent again until `settled`."""
        frame = encode(Submit(cose))
        due_us = self._timeline.now_us + self._retry_us
        self._waiting[request] = _Waiting(frame, due_us, self._retry_us)
        assert len(self._waiting) <= WAITING_MAX, "devices wait for their answers"
        self._send(self._primary, frame)

    def once(self, cose: bytes) -> None:
        """Sends to every replica once and keeps nothing."""
        for replica in self._replicas:
            self._send(replica, encode(Submit(cose)))

    def settled(self, request: bytes) -> None:
        self._waiting.pop(request, None)

    @property
    def _replicas(self) -> tuple[int, ...]:
        return self._tracker.membership.ids

    @property
    def _primary(self) -> int:
        """The primary of the highest view that f+1 replicas say they have reached."""
        membership = self._tracker.membership
        views = sorted(self._views.values(), reverse=True)
        weak = membership.quorum.weak
        return membership.primary(views[weak - 1] if len(views) >= weak else 0)

    def _subscribe(self) -> None:
        """Subscribes again: a restarted replica has no subscribers, a lost frame leaves a gap."""
        for replica in self._replicas:
            self._send(replica, encode(Subscribe(self._tracker.height + 1, True)))

    def _tick(self) -> None:
        now_us = self._timeline.now_us
        if self._tracker.height == self._told_height:
            self._subscribe()
        self._told_height = self._tracker.height
        for waiting in self._waiting.values():
            if waiting.due_us <= now_us:
                waiting.wait_us = min(2 * waiting.wait_us, RETRY_US_MAX)
                waiting.due_us = now_us + waiting.wait_us
                for replica in self._replicas:
                    self._send(replica, waiting.frame)
        self._timeline.after(_TICK_US, self._tick)

    def receive(self, replica: int, frame: bytes) -> None:
        seal = decode_client(frame)
        if not isinstance(seal, Seal) or seal.replica != replica:
            return
        self._views[replica] = seal.view
        try:
            self._tracker.feed(seal)
        except PeerFault:
            return
        while (final := self._tracker.next_final()) is not None:
            if self._copy is not None:
                self._copy.append(final.block, check_signatures=False)
                self._tracker.membership = self._copy.membership
            self._on_final(final)
