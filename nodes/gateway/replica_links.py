"""The gateway's links to the replicas: which one is primary, and what each is asked for.

Two replicas send whole blocks, all others only their signed heads (`gateway.bridge.sources`). The
gateway subscribes again, from its own height on, if a replica was silent or ran so far ahead that
its seals were not kept. That costs nothing, and the first subscription may have been lost with a
link. The links are mutual TLS straight to each replica: consensus never crosses the broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from chain.errors import PeerFault
from chain.pbft.messages import Busy, ClientMessage, Denied, Seal, Submit, Subscribe, encode
from chain.quorum import Quorum
from gateway.bridge.follower import Follower
from gateway.bridge.sources import SOURCES_MAX, Sources
from gateway.refusing import refusing
from nodes.config import certificate_der
from nodes.edge_config import GatewayConfig
from nodes.events import CountedEvents, LimitedEvents
from nodes.ports import Events, Party, Wire
from nodes.wire.inbox import Arrivals
from nodes.wire.tls_wire import TlsWire

__all__ = ["ReplicaLinks"]

SILENT_S = 0.5  # then a replica is asked again
FRAMES_PER_TURN = 16  # then the event loop gets a turn: a block's signatures take a millisecond

_messages = msgspec.msgpack.Decoder(ClientMessage)


class ReplicaLinks:
    """`on_seal` returns how many blocks became final."""

    def __init__(
        self,
        config: GatewayConfig,
        follower: Follower,
        events: Events,
        on_seal: Callable[[Seal], int],
        on_denied: Callable[[int, Denied], None],
        *,
        put_around: Callable[[Wire], Wire] = lambda wire: wire,
    ) -> None:
        self._follower = follower
        self._events = events
        self._link_events = LimitedEvents(events)
        self._faults = CountedEvents(events, "replica-fault")
        self._on_seal = on_seal
        self._on_denied = on_denied
        self._inbox = Arrivals()
        strangers = CountedEvents(events, "stranger")
        self._wire = TlsWire(
            key_file=Path(config.key),
            certificate_file=Path(config.certificate),
            certificates={
                peer.replica: certificate_der(peer.certificate) for peer in config.replicas
            },
            dial={peer.replica: (peer.host, peer.port) for peer in config.replicas},
            inbox=self._inbox,
            on_link=self._on_link,
            on_refused=lambda reason: strangers.add(reason, reason=reason),
            on_failure=self._inbox.fail,
        )
        self._send = put_around(self._wire).send
        self._primary = config.replicas[0].replica
        self._views: dict[int, int] = {}
        pruning = config.keep_data_blocks is not None
        weak = Quorum.of(len(config.replicas)).weak if pruning else 0
        self._sources = Sources(time.monotonic(), max(SOURCES_MAX, weak))
        self._ahead: set[int] = set()
        self._heard_s: dict[int, float] = {}

    def start(self) -> None:
        self._wire.start()

    async def close(self) -> None:
        await self._wire.close()

    def submit(self, cose: bytes, *, everyone: bool) -> None:
        """Sends it to the replica that seems to be the primary, or to all that can be reached."""
        frame = encode(Submit(cose))
        connected = self._wire.connected
        to = connected if everyone or self._primary not in connected else [self._primary]
        for replica in to:
            self._send(replica, frame)

    async def run(self) -> None:
        """Takes arriving messages; until cancelled."""
        while True:
            for count, (party, frame) in enumerate(await self._inbox.turn(), 1):
                self._on_frame(party, frame)
                if count % FRAMES_PER_TURN == 0:
                    await asyncio.sleep(0)
            self._wire.resume()
            await asyncio.sleep(0)

    def tick(self) -> None:
        """Call it a few times a second."""
        now_s = time.monotonic()
        silent = {each for each, heard_s in self._heard_s.items() if now_s - heard_s > SILENT_S}
        for replica in self._ahead | silent:
            self._subscribe(replica)
        self._ahead.clear()
        follower = self._follower
        replaced = self._sources.judge(
            self._connected, follower.height, follower.claimed, follower.brought, now_s
        )
        if replaced is not None:
            self._events.emit("source", replica=replaced[1], instead_of=replaced[0])
            for replica in replaced:
                self._subscribe(replica)

    @property
    def _connected(self) -> list[int]:
        """The replicas that may be block sources."""
        parties = [party for party in self._wire.connected if isinstance(party, int)]
        return sorted(set(parties) - self._follower.removed)

    def _on_frame(self, party: Party, frame: bytes) -> None:
        assert isinstance(party, int), "only replicas are dialled"
        try:
            with refusing():
                message = _messages.decode(frame)
                if isinstance(message, Seal) and message.replica != party:
                    raise PeerFault("bad-seal", "in another replica's name")
            match message:
                case Seal():
                    self._on_replica_seal(message)
                case Denied():
                    self._on_denied(party, message)
                case Busy():
                    pass  # it stays in the outbox, and the tick tries everybody
                case _:
                    raise PeerFault("bad-frame", type(message).__name__)
        except PeerFault as fault:
            self._faults.add(party, fault.code, replica=party, reason=str(fault))

    def _on_replica_seal(self, seal: Seal) -> None:
        self._heard_s[seal.replica] = time.monotonic()
        if not self._on_seal(seal) and self._follower.too_far(seal):
            self._ahead.add(seal.replica)
        self._views[seal.replica] = seal.view
        membership = self._follower.tracker.membership
        # f+1 of them say so: at least one honest replica is that far.
        views = [view for who, view in self._views.items() if who not in self._follower.removed]
        believed = sorted(views, reverse=True)
        self._primary = membership.primary(believed[min(len(believed), membership.quorum.weak) - 1])

    def _on_link(self, party: Party, up: bool, reason: str) -> None:
        assert isinstance(party, int), "only replicas are dialled"
        self._link_events.emit(party, "link", replica=party, up=up, reason=reason)
        if not up:
            self._heard_s.pop(party, None)
        fresh = self._sources.fill(self._connected, self._follower.brought)
        for replica in {*fresh, party} if up else set(fresh):
            self._subscribe(replica)

    def _subscribe(self, replica: int) -> None:
        self._heard_s[replica] = time.monotonic()
        request = Subscribe(self._follower.height + 1, replica in self._sources)
        self._send(replica, encode(request))
