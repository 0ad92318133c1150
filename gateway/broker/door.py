"""The door of the embedded broker: every connection and every packet passes it first.

amqtt trusts its clients too much for a testbed of attacks. It registers a session before it
authenticates, lets anybody take over a client id, checks no will, reads packets of up to 256 MB,
waits without limit for the first byte and ignores the keep-alive. So the door owns the sockets. It
reads each packet strictly (`gateway.mqtt.packets`), checks the rights (`store`) and the limits
(`DoorLimits`), and only then passes the bytes on. Publishes go to the broker as calls. The door
also carries out the administrator's commands, the same as those of Mosquitto's dynamic-security
plugin.

A refusal closes the connection and is counted by reason. Only a refused subscription leaves it
open: amqtt answers it with a failure code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from amqtt.adapters import ReaderAdapter, StreamWriterAdapter

from chain.errors import PeerFault
from gateway.broker.embedded import EmbeddedBroker
from gateway.broker.port import BrokerConfig, DoorLimits, OnReady, PortTakenError, report
from gateway.broker.store import SecurityStore
from gateway.limits import TokenBucket
from gateway.mqtt import packets
from gateway.mqtt.topics import ADMIN_REQUEST, ADMIN_RESPONSE, Action
from gateway.refusing import refusing
from gateway.tasks import first_of

__all__ = ["Door", "serve"]

log = logging.getLogger(__name__)


# How often a full broker is asked again, and how long a closed connection may take to flush.
_congestion_poll_s = 0.005
_flush_s = 1.0
_takeover_s = 2.0
_shutdown_s = 1.0
_CONNACK_OF = {"bad-login": packets.BAD_PASSWORD, "bad-version": packets.BAD_VERSION}


class Door:
    """Accepts connections for one broker. `counts` has the refusals by reason."""

    def __init__(
        self,
        store: SecurityStore,
        broker: EmbeddedBroker,
        limits: DoorLimits,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.broker, self.limits, self.now_s = store, broker, limits, now_s
        self.counts: Counter[str] = Counter()
        self._connections: set[_Connection] = set()
        self._handshakes: dict[_Connection, None] = {}
        self._named: dict[str, _Connection] = {}
        self._server: asyncio.Server | None = None
        self._saving = asyncio.Lock()

    async def open(self, host: str, port: int) -> int:
        """Listens; returns the port (a free one if `port` is 0). Raises OSError if it is taken."""
        self._server = await asyncio.start_server(self._on_connection, host, port)
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        tasks = [connection.task for connection in self._connections]
        if tasks:
            await asyncio.wait(tasks, timeout=_flush_s)

    def refuse(self, reason: str, who: str, detail: str = "") -> None:
        """Counts and logs it."""
        self.counts[reason] += 1
        log.warning("refused: %s by %s %s", reason, who, detail)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = _Connection(self, reader, writer)
        if len(self._connections) >= self.limits.connections_max:
            self.refuse("connections-full", connection.who)
            writer.transport.abort()
            return
        self._connections.add(connection)
        try:
            await self._serve(connection)
        finally:
            self._connections.discard(connection)
            writer.close()
            asyncio.get_running_loop().call_later(_flush_s, writer.transport.abort)

    async def _serve(self, connection: _Connection) -> None:
        if len(self._handshakes) >= self.limits.handshakes_max:
            # Close the oldest connection without a login: silent connections keep nobody out.
            oldest = next(iter(self._handshakes))
            self.refuse("handshakes-full", oldest.who)
            oldest.abort()
        self._handshakes[connection] = None
        try:
            admitted = await connection.login()
        finally:
            self._handshakes.pop(connection, None)
        if not admitted:
            return
        name = connection.name
        await self._take_over(name)
        if name not in self.store:  # removed while the old connection ended
            return
        self._named[name] = connection
        self.counts["logins"] += 1
        try:
            await self.broker.serve(connection, connection.writer)
        finally:
            if self._named.get(name) is connection:
                del self._named[name]
            if connection.clean_session or name not in self.store:
                await self.broker.forget(name)

    async def _take_over(self, name: str) -> None:
        """One connection for each name (3.1.4): the older one ends before the new one begins."""
        while old := self._named.get(name):
            old.abort()
            await asyncio.wait([old.task], timeout=_takeover_s)
            if self._named.get(name) is old:
                del self._named[name]

    async def administer(self, payload: bytes) -> None:
        """Carries out the administrator's commands and answers each, like Mosquitto's plugin."""
        try:
            commands = json.loads(payload)["commands"]
            assert isinstance(commands, list)
        except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
            commands = [None]
        answers = []
        for command in commands:
            refused = self.store.apply(command)
            shown = command if isinstance(command, dict) else {}
            answer = {"command": str(shown.get("command", ""))[:40]}
            if "correlationData" in shown:
                answer["correlationData"] = str(shown["correlationData"])[:80]
            if refused:
                answer["error"] = refused
            elif shown.get("command") == "deleteClient":
                self._kick(str(shown["username"]))
            answers.append(answer)
        async with self._saving:  # before the answer, and not in the event loop
            await asyncio.to_thread(self.store.write, self.store.encoded())
        await self.broker.publish(ADMIN_RESPONSE, json.dumps({"responses": answers}).encode())

    def _kick(self, name: str) -> None:
        log.info("removed %s", name)
        self.counts["removed"] += 1
        if connection := self._named.get(name):
            connection.abort()


class _Connection(ReaderAdapter):
    """One client. amqtt reads from it a stream of bytes with the allowed packets only."""

    def __init__(
        self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.name = ""
        self.clean_session = True
        self.who = "{}:{}".format(*(writer.get_extra_info("peername") or ("?", 0))[:2])
        self.writer = _Writer(writer)
        self._door, self._reader, self._raw = door, reader, writer
        self._idle_s = door.limits.idle_s_max
        self._approved = b""
        self._bucket = TokenBucket(
            door.limits.publishes_per_s, door.limits.publishes_burst, door.now_s()
        )

    def abort(self) -> None:
        self._raw.transport.abort()

    async def login(self) -> bool:
        """Reads CONNECT and decides. A refusal is answered with its CONNACK code."""
        try:
            async with asyncio.timeout(self._door.limits.connect_deadline_s):
                head, body = await self._read_packet()
            with refusing():
                connect = packets.parse_connect(head[0], body)
                self._check_login(connect)
        except (PeerFault, TimeoutError, OSError, EOFError) as error:
            self._refuse_login(error)
            return False
        self.name, self.clean_session = connect.client_id, connect.clean_session
        if connect.keepalive_s:
            self._idle_s = min(self._idle_s, 1.5 * connect.keepalive_s)  # 3.1.2.10
        self._approved = head + body
        return True

    def _check_login(self, connect: packets.ConnectPacket) -> None:
        store, name = self._door.store, connect.client_id
        if name != connect.user_name:
            raise PeerFault("name-mismatch", "client id and user name must agree")
        if not store.knows(name, connect.password):
            raise PeerFault("bad-login", name[:80])
        will = connect.will_topic
        if will is not None and not store.allows(name, Action.PUBLISH, will):
            raise PeerFault("will-denied", will[:80])
        if connect.will_retain:
            raise PeerFault("retain-denied", "a will that is to be retained")

    def _refuse_login(self, error: Exception) -> None:
        if isinstance(error, PeerFault):
            code = _CONNACK_OF.get(error.code, packets.NOT_AUTHORISED)
            self._raw.write(packets.connack(code))
            reason = error.code
        else:
            reason = "connect-timeout" if isinstance(error, TimeoutError) else "connect-aborted"
        self._door.refuse(reason, self.who, str(error))

    async def read(self, n: int = -1) -> bytes:
        """amqtt calls it for each field: bytes of the approved packet, or of the next one.

        A field never crosses packets, because `gateway.mqtt.packets` has checked them.
        """
        if not self._approved:
            self._approved = await self._next_packet()
        piece, self._approved = self._approved[:n], self._approved[n:]
        return piece

    def feed_eof(self) -> None:
        self._reader.feed_eof()

    async def _next_packet(self) -> bytes:
        while True:
            try:
                head, body = await self._read_packet()
                with refusing():
                    packet = packets.parse_packet(head[0], body)
                    self._check(packet)
                if not isinstance(packet, packets.PublishPacket):
                    # amqtt answers each packet in a new task, without a limit.
                    await self._raw.drain()
                    return head + body
                if packet.topic != ADMIN_REQUEST:  # a revocation overtakes what waits here
                    await self._slow_down()
                await self._publish(packet)
            except PeerFault as fault:
                self._door.refuse(fault.code, self.name, str(fault))
                self.abort()
                raise ConnectionResetError(str(fault)) from None
            except TimeoutError:
                self._door.refuse("too-late", self.name)
                self.abort()
                raise ConnectionResetError("too late") from None

    def _check(self, packet: packets.Packet) -> None:
        """Raises PeerFault if the client must be disconnected."""
        match packet:
            case packets.PublishPacket(topic=topic, retain=retain):
                if not self._door.store.allows(self.name, Action.PUBLISH, topic):
                    raise PeerFault("publish-denied", topic[:80])
                if retain:
                    raise PeerFault("retain-denied", topic[:80])
            case packets.SubscribePacket(filters=filters):
                if len(filters) > self._door.limits.filters_max:
                    raise PeerFault("too-many-filters", str(len(filters)))
            case packets.OtherPacket():
                pass
            case _:
                assert_never(packet)

    async def _publish(self, packet: packets.PublishPacket) -> None:
        """Delivers, then acknowledges. amqtt acknowledges first, even publishes that it then
        denies, and queues without limit.
        """
        if packet.topic == ADMIN_REQUEST:
            await self._door.administer(packet.payload)
        else:
            await self._door.broker.publish(packet.topic, packet.payload)
        if packet.packet_id is not None:
            self._raw.write(packets.puback(packet.packet_id))
            await self._raw.drain()  # a client that does not read its acknowledgements must wait

    async def _slow_down(self) -> None:
        """Backpressure: while the door does not read, TCP makes the client wait."""
        if not self._bucket.take(self._door.now_s()):
            self._door.counts["slowed"] += 1
            while not self._bucket.take(self._door.now_s()):
                await asyncio.sleep(self._bucket.wait_s(self._door.now_s()))
        while self._door.broker.congested(self.name):
            await asyncio.sleep(_congestion_poll_s)

    async def _read_packet(self) -> tuple[bytes, bytes]:
        """One packet as (fixed header, body). Raises TimeoutError if it is too late or too slow."""
        limits = self._door.limits
        async with asyncio.timeout(self._idle_s):
            first = await self._reader.readexactly(1)
        async with asyncio.timeout(limits.packet_deadline_s):
            return await packets.read_after(first, self._reader, limits.packet_bytes_max)


class _Writer(StreamWriterAdapter):
    """amqtt's writer, but `close` never waits for a client that does not read."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self._stream = writer

    @property
    def waiting_bytes(self) -> int:
        return self._stream.transport.get_write_buffer_size()

    async def close(self) -> None:
        self.is_closed = True
        self._stream.close()


async def serve(config: BrokerConfig, folder: Path, on_ready: OnReady, stop: asyncio.Event) -> None:
    """Runs the embedded broker until `stop`. Raises PortTakenError or SecurityFileError."""
    store = SecurityStore.load(folder / config.security_file)
    broker = EmbeddedBroker(store)
    await broker.start()
    door = Door(store, broker, config.limits)
    try:
        port = await door.open(config.listen.host, config.listen.port)
    except OSError as error:
        raise PortTakenError(f"{config.listen.host}:{config.listen.port}: {error}") from error

    def counts() -> dict[str, int]:
        # Of plain copies: they cannot change while they are added.
        return dict(Counter(dict(door.counts)) + Counter(dict(broker.counts)))

    try:
        on_ready(config.listen.host, {"mqtt": port}, counts)
        await first_of(report(counts), stop.wait())
    finally:
        await door.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_shutdown_s):
                await broker.shutdown()
