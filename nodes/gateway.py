"""`python -m nodes.gateway --config FILE`: the gateway's links, broker logins and clock.

What it decides is in `gateway.bridge`. Replicas are reached over mutual TLS, devices over MQTT;
consensus never crosses the broker. One replica sends whole blocks, the others only their signed
heads; if blocks stop coming from the one, another is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections import deque
from pathlib import Path

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Es256
from chain.messages import Busy, ClientMessage, Seal, Submit, Subscribe, encode
from chain.messages import Denied as ReplicaDenied
from gateway.block_store import BlockStore, BlockStoreError
from gateway.bridge import Bridge, admitted
from gateway.broker import BrokerAdminError, DynamicSecurityAdmin
from gateway.broker_security import User
from gateway.limits import RateLimiter
from gateway.mqtt import BrokerUnavailableError, MqttClient, MqttSettings, Presence
from gateway.outbox import Outbox, OutboxCorruptError
from gateway.topics import Head, Response, Role, Status
from nodes.config import ConfigError, certificate_der
from nodes.edge_config import GatewayConfig, load_config
from nodes.events import EventLog
from nodes.inbox import Inbox
from nodes.ports import Party
from nodes.process import EXIT_BAD_CONFIG, Trouble, fail, run, write_ready
from nodes.tls_wire import TlsWire

__all__ = ["GatewayProcess", "main"]

TICK_S = 0.1
BODIES_STALL_S = 2.0
OUTGOING_MAX = 8_192  # answers that wait for the broker
PUBLISH_DEADLINE_S = 30.0

_messages = msgspec.msgpack.Decoder(ClientMessage)


class GatewayProcess:
    """Implements `bridge.Outside`."""

    def __init__(self, config: GatewayConfig, genesis: Genesis, events: EventLog) -> None:
        self._config = config
        self._events = events
        self._inbox = Inbox()
        self._readable = asyncio.Event()
        self._wire = TlsWire(
            key_file=Path(config.key),
            certificate_file=Path(config.certificate),
            certificates={
                peer.replica: certificate_der(peer.certificate) for peer in config.replicas
            },
            dial={peer.replica: (peer.host, peer.port) for peer in config.replicas},
            inbox=self._inbox,
            on_readable=self._readable.set,
            on_link=self._on_link,
            on_refused=lambda reason: self.emit("stranger", reason=reason),
        )
        limits = config.limits
        passwords = json.loads(Path(config.passwords).read_bytes())
        self._bridge = Bridge(
            genesis=genesis,
            scheme=Es256(),
            store=BlockStore(Path(config.copy), genesis.network),
            outbox=Outbox(Path(config.outbox)),
            limiter=RateLimiter(
                rate_per_s=limits.rate_per_s,
                burst=limits.burst,
                total_rate_per_s=limits.total_rate_per_s,
                total_burst=limits.total_burst,
                sources_max=limits.sources_max,
                clock=time.monotonic,
            ),
            outside=self,
            waiting_max=limits.waiting_max,
            submit_timeout_ms=config.submit_timeout_ms,
            login_secret=bytes.fromhex(passwords["devices"]),
        )
        net = self._bridge.net
        gateway, admin = (
            User(role, config.node, passwords[role.value]) for role in (Role.GATEWAY, Role.ADMIN)
        )
        self._client = MqttClient(
            MqttSettings(
                config.broker.host,
                config.broker.port,
                gateway.name,
                gateway.password,
                subscriptions=(f"m2m/1/{net}/up/+/+/+",),
                presence=Presence(str(Status(net, config.node)), b"gateway", b""),
            )
        )
        self._admin_client = MqttClient(
            MqttSettings(
                config.broker.host,
                config.broker.port,
                admin.name,
                admin.password,
                subscriptions=DynamicSecurityAdmin.subscriptions,
            )
        )
        self._admin = DynamicSecurityAdmin(self._admin_client, net)
        self._outgoing: deque[tuple[str, bytes, bool]] = deque(maxlen=OUTGOING_MAX)
        self._outgoing_ready = asyncio.Event()
        self._logins: asyncio.Queue[tuple[User | str, str, bytes]] = asyncio.Queue()
        self._primary = config.replicas[0].replica
        self._views: dict[int, int] = {}
        self._bodies_from: int | None = None
        self._bodies_at_s = time.monotonic()
        self._announced: bytes | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        self._wire.start()
        work = [
            self._client.run(),
            self._admin_client.run(),
            self._admin.run(),
            self._from_devices(),
            self._from_replicas(),
            self._to_devices(),
            self._change_logins(),
            self._tick(),
        ]
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            await self._client.ready()
            await self._admin_client.ready()
            write_ready(Path(self._config.ready) if self._config.ready else None, {})
            self.emit("started", height=self._bridge.height)
            waiter = asyncio.ensure_future(stopping.wait())
            done, _ = await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiter}:
                task.result()
        except BrokerUnavailableError as error:
            raise Trouble(str(error)) from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._wire.close()
            self.emit("counts", **dict(self._bridge.counts))

    # --- bridge.Outside ---------------------------------------------------------------------------

    def submit(self, cose: bytes, *, everyone: bool) -> None:
        frame = encode(Submit(cose))
        connected = self._wire.connected
        if everyone or self._primary not in connected:
            for replica in connected:
                self._wire.send(replica, frame)
        else:
            self._wire.send(self._primary, frame)

    def answer(self, device: str, kind: str, payload: bytes) -> None:
        self._publish(str(Response(self._bridge.net, device, kind)), payload, retain=False)

    def admit(self, user: User, device: str, receipt: bytes) -> None:
        self._logins.put_nowait((user, device, receipt))

    def expel(self, node: str) -> None:
        self._logins.put_nowait((node, "", b""))

    def emit(self, event: str, **fields: object) -> None:
        self._events.emit(event, **fields)

    # --- work -------------------------------------------------------------------------------------

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self._outgoing.append((topic, payload, retain))
        self._outgoing_ready.set()

    async def _to_devices(self) -> None:
        """Answers in order; one that the broker does not take in time is dropped, its device asks
        again."""
        while True:
            await self._outgoing_ready.wait()
            self._outgoing_ready.clear()
            while self._outgoing:
                topic, payload, retain = self._outgoing.popleft()
                try:
                    await self._client.publish(
                        topic, payload, retain=retain, deadline_s=PUBLISH_DEADLINE_S
                    )
                except BrokerUnavailableError as error:
                    self.emit("answer-lost", topic=topic, reason=str(error))

    async def _change_logins(self) -> None:
        while True:
            who, device, receipt = await self._logins.get()
            try:
                if isinstance(who, User):
                    await self._admin.ensure(who)
                    self.answer(device, "admitted", admitted(receipt, who.password or ""))
                else:
                    await self._admin.remove(who)
                    self.emit("expelled", node=who)
            except (BrokerAdminError, BrokerUnavailableError) as error:
                # Not lost: the device asks again, and a revocation is tried until it is done.
                self.emit("login-failed", reason=str(error))
                if isinstance(who, str):
                    await asyncio.sleep(TICK_S)
                    self._logins.put_nowait((who, device, receipt))

    async def _from_devices(self) -> None:
        async for message in self._client.messages():
            self._bridge.on_up(message.topic, message.payload, _now_ms())

    async def _from_replicas(self) -> None:
        while True:
            await self._readable.wait()
            self._readable.clear()
            while taken := self._inbox.take():
                for party, frame in taken:
                    self._on_frame(party, frame)
                self._wire.resume()
                await asyncio.sleep(0)

    def _on_frame(self, party: Party, frame: bytes) -> None:
        assert isinstance(party, int), "only replicas are dialled"
        try:
            message = _messages.decode(frame)
            match message:
                case Seal():
                    if message.replica != party:
                        raise PeerFault("bad-seal", "in another replica's name")
                    self._on_seal(party, message)
                case ReplicaDenied():
                    self._bridge.on_denied(party, message)
                case Busy():
                    pass  # it stays in the outbox, and the tick tries everybody
                case _:
                    raise PeerFault("bad-frame", type(message).__name__)
        except (PeerFault, msgspec.DecodeError) as fault:
            self.emit("replica-fault", replica=party, reason=str(fault))

    def _on_seal(self, replica: int, seal: Seal) -> None:
        self._views[replica] = seal.view
        membership = self._bridge.tracker.membership
        # f+1 of them say so: at least one honest replica is that far.
        believed = sorted(self._views.values(), reverse=True)
        self._primary = membership.primary(believed[min(len(believed), membership.quorum.weak) - 1])
        if self._bridge.on_seal(seal):
            self._bodies_at_s = time.monotonic()

    def _on_link(self, party: Party, up: bool, reason: str) -> None:
        assert isinstance(party, int), "only replicas are dialled"
        self.emit("link", replica=party, up=up, reason=reason)
        if up:
            self._subscribe(party, bodies=self._bodies_from in (None, party))
        elif party == self._bodies_from:
            self._bodies_from = None
            self._rotate_bodies()

    def _subscribe(self, replica: int, *, bodies: bool) -> None:
        if bodies:
            self._bodies_from = replica
            self._bodies_at_s = time.monotonic()
        self._wire.send(replica, encode(Subscribe(self._bridge.height + 1, bodies)))

    def _rotate_bodies(self) -> None:
        """Another replica becomes the source of blocks."""
        connected = [party for party in self._wire.connected if isinstance(party, int)]
        others = sorted(party for party in connected if party != self._bodies_from)
        if not others:
            return
        after = [party for party in others if party > (self._bodies_from or 0)]
        if self._bodies_from is not None:
            self._subscribe(self._bodies_from, bodies=False)
        self._subscribe((after or others)[0], bodies=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._bridge.tick(_now_ms())
            self._events.flush()
            stalled = time.monotonic() - self._bodies_at_s > BODIES_STALL_S
            if stalled and self._bridge.waiting:
                self._bodies_at_s = time.monotonic()
                self._rotate_bodies()
            if self._bridge.head != self._announced:
                self._announced = self._bridge.head
                self._publish(str(Head(self._bridge.net)), self._bridge.head, retain=True)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m nodes.gateway", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--exit-on-stdin-eof", action="store_true")
    args = parser.parse_args()
    try:
        config = load_config(args.config, GatewayConfig)
        genesis = Genesis.decode(Path(config.genesis).read_bytes())
    except (ConfigError, PeerFault, OSError) as error:
        fail(EXIT_BAD_CONFIG, str(error))

    async def serve(stopping: asyncio.Event) -> None:
        with contextlib.ExitStack() as stack:
            events = stack.enter_context(EventLog(Path(config.events or "/dev/null"), config.name))
            try:
                process = GatewayProcess(config, genesis, events)
            except (OutboxCorruptError, BlockStoreError, OSError) as error:
                raise Trouble(str(error)) from error
            await process.run(stopping)

    run(serve, exit_on_stdin_eof=args.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
