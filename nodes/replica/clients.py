"""The gateways that a replica serves: their submitted requests, and the seals for them.

A subscriber that is up to date gets each seal when its block is executed. One that lags gets blocks
from the store in pieces, as fast as its link takes them. Only the link queues anything for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from chain.pbft.messages import Busy, Denied, Seal, Signed, encode
from nodes.ports import Store, Stored, Wire

__all__ = ["PIECE_BLOCKS_MAX", "PIECE_BYTES_MAX", "SUBMITTED_MAX", "Clients"]

PIECE_BLOCKS_MAX = 256
PIECE_BYTES_MAX = 512 * 1024
SUBMITTED_MAX = 16_384  # requests whose submitter is remembered, for refusals


class _Subscriber(msgspec.Struct):
    next: int  # the height that it gets next
    bodies: bool


class Clients:
    """`view` gives this replica's view number."""

    def __init__(self, me: int, store: Store, wire: Wire, view: Callable[[], int]) -> None:
        self._me = me
        self._store = store
        self._wire = wire
        self._view = view
        self._subscribers: dict[str, _Subscriber] = {}
        self._submitted: OrderedDict[bytes, str] = OrderedDict()

    def submitted(self, request: bytes, client: str) -> None:
        """Remembers which client gets the refusal, if there is one."""
        self._submitted[request] = client
        if len(self._submitted) > SUBMITTED_MAX:
            self._submitted.popitem(last=False)

    def refused(self, request: bytes, reason: str, endorsement: Signed | None = None) -> None:
        client = self._submitted.pop(request, None)
        if client is None:
            return
        if reason == "busy":
            self._wire.send(client, encode(Busy(request)))
        else:
            self._wire.send(client, encode(Denied(request, reason, endorsement)))

    def subscribe(self, client: str, start: int, bodies: bool) -> None:
        """Replaces an earlier subscription of this client. Height 0 has no seal."""
        self._subscribers[client] = _Subscriber(max(start, 1), bodies)

    def left(self, client: str) -> None:
        """Its link is down; it will subscribe again."""
        self._subscribers.pop(client, None)

    @property
    def lagging(self) -> bool:
        return any(each.next <= self._store.height for each in self._subscribers.values())

    def sealed(self, height: int, stored: Stored, requests: Iterable[bytes]) -> None:
        """Sends the seal to subscribers that are up to date. `requests` cannot be refused now."""
        for request in requests:
            self._submitted.pop(request, None)
        frames: dict[bool, bytes] = {}
        for client, subscriber in self._subscribers.items():
            if subscriber.next != height or self._wire.congested(client):
                continue
            frame = frames.get(subscriber.bodies)
            if frame is None:
                frame = frames[subscriber.bodies] = self._seal(stored, subscriber.bodies)
            self._wire.send(client, frame)
            subscriber.next += 1

    def pump(self) -> bool:
        """Sends each lagging subscriber one piece. True if another call would send more now."""
        more = False
        for client, subscriber in self._subscribers.items():
            if subscriber.next > self._store.height or self._wire.congested(client):
                continue
            size = 0
            stop = subscriber.next + PIECE_BLOCKS_MAX - 1
            for stored in self._store.blocks(subscriber.next, stop):
                frame = self._seal(stored, subscriber.bodies)
                self._wire.send(client, frame)
                subscriber.next += 1
                size += len(frame)
                if size >= PIECE_BYTES_MAX:
                    break
            more = more or subscriber.next <= self._store.height
        return more

    def _seal(self, stored: Stored, bodies: bool) -> bytes:
        block, signature = stored
        return encode(
            Seal(self._me, self._view(), block.head, signature, block if bodies else None)
        )
