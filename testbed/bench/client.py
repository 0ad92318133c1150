"""A client of the replicas that keeps many requests in flight, each from its own identity.

It follows the client's rule (`chain.proofs.client`). Bodies come from one replica, heads from all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from chain.block import Block
from chain.genesis import Genesis
from chain.keys import Es256, digest
from chain.ledger.item import make_item, read_item
from chain.pbft.messages import Denied, Seal, Submit, Subscribe, decode_client, encode
from chain.proofs.client import FinalityTracker
from nodes.config import certificate_der
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE
from nodes.ports import Party
from nodes.wire.inbox import Inbox
from nodes.wire.tls_wire import TlsWire
from testbed.bench.network import ReplicaNetwork
from testbed.errors import LabFault

__all__ = ["RETRY_S", "Client", "Denial"]

RETRY_S = 1.0  # after this time without a reply, a request goes to every replica (OSDI'99, 4.1)
RETRY_S_MAX = 8.0  # doubled each time: every replica works for it, which slows down a slow machine

# The answer to a request that we sent twice because its block was still on the way to us.
_EXECUTED = ("done", "replay")


class Denial(Exception):
    """A replica refused the request before ordering it."""


class _Waiting(msgspec.Struct):
    """A request in flight."""

    cose: bytes
    request: bytes
    done: Callable[[str | None], None]
    sent_s: float
    retry_s: float


class Client:
    """`submit` calls back with None when the request is final, or with the reason of a denial."""

    def __init__(
        self,
        network: ReplicaNetwork,
        body_source: int = 0,
        retry_s: float = RETRY_S,
    ) -> None:
        self._retry_s = retry_s
        self.genesis: Genesis = network.genesis
        self._network = network.genesis.network
        self._membership = network.genesis.membership
        self._tracker = FinalityTracker(self._membership, network.genesis, Es256())
        self.height = 0
        self.head_hash = self._tracker.head_hash
        self.records = 0
        self.conflicts = 0
        self._views: dict[int, int] = {}  # of each replica
        self._view = 0
        self._waiting: dict[bytes, _Waiting] = {}  # by item
        self._items: dict[bytes, bytes] = {}  # request id -> item
        self._body_source = body_source
        self._inbox = Inbox()
        home = network.client_home
        certificates: dict[Party, bytes] = {
            n: certificate_der(network.certificates[n]) for n in network.replicas
        }
        self._wire = TlsWire(
            key_file=home / KEY_FILE,
            certificate_file=home / CERTIFICATE_FILE,
            certificates=certificates,
            dial={n: ("127.0.0.1", network.ports[n]) for n in network.replicas},
            inbox=self._inbox,
            on_readable=self._read,
            on_link=self._link,
            on_refused=lambda _: None,
        )
        self._retry: asyncio.TimerHandle | None = None

    async def connect(self, timeout_s: float = 10.0) -> None:
        """Returns when a quorum of replicas is linked. Raises LabFault."""
        self._loop = asyncio.get_running_loop()
        self._wire.start()
        self._retry = self._loop.call_later(RETRY_S / 4, self._retransmit)
        deadline = self._loop.time() + timeout_s
        while len(self._wire.connected) < self._membership.quorum.strong:
            if self._loop.time() > deadline:
                raise LabFault("no quorum of replicas could be reached")
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        await self._wire.close()

    @property
    def state_text(self) -> str:
        """The client's state in words, for people."""
        return (
            f"{self.in_flight} requests in flight, height {self.height}, view {self._view}, "
            f"linked to replicas {', '.join(sorted(map(str, self._wire.connected)))}"
        )

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def submit(self, cose: bytes, done: Callable[[str | None], None], request: bytes = b"") -> None:
        """`request` is the request's id. Access requests need it, because they come back with
        endorsements."""
        item = make_item(cose)
        self._waiting[item] = _Waiting(cose, request, done, self._loop.time(), self._retry_s)
        if request:
            self._items[request] = item
        primary = self._membership.primary(self._view)
        if primary in self._wire.connected:
            self._wire.send(primary, encode(Submit(cose)))
        else:
            self._send_to_all(cose)

    async def request(self, cose: bytes, request: bytes, timeout_s: float | None = 30.0) -> None:
        """Submits and waits until it is final. Raises Denial, TimeoutError."""
        answered: asyncio.Future[str | None] = self._loop.create_future()

        def done(reason: str | None) -> None:
            if not answered.done():
                answered.set_result(reason)

        self.submit(cose, done, request)
        async with asyncio.timeout(timeout_s):
            reason = await answered
        if reason is not None:
            raise Denial(reason)

    def _send_to_all(self, cose: bytes) -> None:
        frame = encode(Submit(cose))
        for replica in self._wire.connected:
            self._wire.send(replica, frame)

    def _retransmit(self) -> None:
        """Requests without a reply go to every replica; a dead body source is replaced."""
        self._retry = self._loop.call_later(RETRY_S / 4, self._retransmit)
        now_s = self._loop.time()
        for waiting in self._waiting.values():
            if now_s - waiting.sent_s >= waiting.retry_s:
                waiting.sent_s = now_s
                waiting.retry_s = max(self._retry_s, min(2 * waiting.retry_s, RETRY_S_MAX))
                self._send_to_all(waiting.cose)
        if self._body_source not in self._wire.connected and self._wire.connected:
            for replica in self._wire.connected:
                if isinstance(replica, int):
                    self._body_source = replica
                    self._subscribe(replica)
                    break

    def _subscribe(self, replica: int) -> None:
        start = self.height + 1
        self._wire.send(replica, encode(Subscribe(start, replica == self._body_source)))

    def _link(self, party: Party, up: bool, _: str) -> None:
        if up and isinstance(party, int):
            self._loop.call_soon(self._subscribe, party)

    def _read(self) -> None:
        while self._inbox:
            for party, frame in self._inbox.take():
                self._heard(party, frame)
        self._wire.resume()
        self._wire.flush()

    def _heard(self, party: Party, frame: bytes) -> None:
        match decode_client(frame):
            case Seal() as seal if seal.replica == party:
                self._sealed(seal)
            case Denied(request=request, reason=reason) if reason not in _EXECUTED:
                self._finish(self._item_of(request), reason)
            case _:
                pass  # after `Busy` the timer sends again

    def _sealed(self, seal: Seal) -> None:
        self._views[seal.replica] = seal.view
        # f+1 replicas are in this view or a later one: a restarted replica may be alone in a later
        # view.
        believed = sorted(self._views.values(), reverse=True)
        self._view = believed[min(len(believed), self._membership.quorum.weak) - 1]
        self.conflicts += self._tracker.feed(seal) is not None
        while (final := self._tracker.next_final()) is not None:
            self.height, self.head_hash = final.height, digest(final.head)
            self._final(final.block)

    def _final(self, block: Block) -> None:
        for record in block.records:
            self.records += 1
            if self._finish(record.item, None):
                continue
            # Endorsements were added to it, or it is not ours.
            request = read_item(record.item, self._network).id
            self._finish(self._items.get(request, b""), None)

    def _item_of(self, request: bytes) -> bytes:
        """Computes ids only when a denial comes: that is rare."""
        if request in self._items:
            return self._items[request]
        for item in self._waiting:
            if read_item(item, self._network).id == request:
                return item
        return b""

    def _finish(self, item: bytes, reason: str | None) -> bool:
        waiting = self._waiting.pop(item, None)
        if waiting is None:
            return False
        self._items.pop(waiting.request, None)
        waiting.done(reason)
        return True
