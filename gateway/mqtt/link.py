"""One connection to the broker, driven by the asyncio loop, and the messages it brings.

paho's sockets are watched by the loop (no thread; see the README for the figures), with TCP_NODELAY
and nothing that blocks in a callback. Every connection is a fresh paho client, so no half-sent
state outlives it. Connecting again is `mqtt`'s matter.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from dataclasses import dataclass, field

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["Inbox", "Link", "LostError", "Message", "MqttSettings", "Presence", "pinned"]

log = logging.getLogger(__name__)

inflight_publishes_max = 100
inbound_messages_max = 1000
connect_timeout_s = 3.0
misc_period_s = 1.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the broker; `retained` when it is older than the subscription."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """What the retained status topic says: `online` from connecting on, `offline` as the will."""

    topic: str
    online: bytes
    offline: bytes


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """Where to connect, as whom, and what to hear. `password` is never shown. `trust` is the
    broker's certificate (PEM), which pins it: with one the connection is TLS 1.3."""

    host: str
    port: int
    name: str
    password: str | None = field(default=None, repr=False)
    subscriptions: tuple[str, ...] = ()
    presence: Presence | None = None
    trust: str = ""
    clean_session: bool = True
    keepalive_s: int = 30


class LostError(Exception):
    """This connection is gone or was refused."""


class Link:
    """One connection from CONNECT to its end. All methods run in the loop's thread."""

    def __init__(self, settings: MqttSettings, inbox: Inbox) -> None:
        self._settings, self._inbox = settings, inbox
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.slots = asyncio.Semaphore(inflight_publishes_max)
        self._acks: dict[int, asyncio.Future[None]] = {}
        self._socket: socket.socket | None = None
        self._misc: asyncio.TimerHandle | None = None
        self._reading = self._writing = False
        self._paho = self._make_paho()

    def _make_paho(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._settings.name,
            clean_session=self._settings.clean_session,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = connect_timeout_s
        client.max_inflight_messages = inflight_publishes_max
        client.username_pw_set(self._settings.name, self._settings.password)
        if self._settings.trust:
            client.tls_set_context(pinned(self._settings.trust))
        if presence := self._settings.presence:
            client.will_set(presence.topic, presence.offline, qos=1, retain=True)
        client.on_socket_open = _set_nodelay
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    async def open(self) -> None:
        """Connect, subscribe and announce; `OSError`, `TimeoutError` or `LostError` if not."""
        async with asyncio.timeout(2 * connect_timeout_s):
            await asyncio.to_thread(
                self._paho.connect,
                self._settings.host,
                self._settings.port,
                self._settings.keepalive_s,
            )
            opened = self._paho.socket()
            assert isinstance(opened, socket.socket)
            self._socket = opened
            self.read(True)
            self._tick()
            await asyncio.shield(self.opened)
        if presence := self._settings.presence:
            self._paho.publish(presence.topic, presence.online, qos=1, retain=True)
            self._flush()

    def publish(self, topic: str, payload: bytes, retain: bool) -> asyncio.Future[None]:
        """Send; the future is done at PUBACK and fails with `LostError`. Takes one of `slots`."""
        info = self._paho.publish(topic, payload, qos=1, retain=retain)
        acked = self._loop.create_future()
        if self.closed.done():  # found out by this very write
            self.slots.release()
            acked.set_exception(LostError("the connection was lost"))
            return acked
        self._acks[info.mid] = acked
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end(f"publish: {paho.error_string(info.rc)}")
        self._flush()
        return acked

    def leave(self) -> None:
        """Say goodbye (so that the will stays unsaid) and close."""
        if self.opened.done() and not self.closed.done():
            if presence := self._settings.presence:
                self._paho.publish(presence.topic, presence.offline, qos=1, retain=True)
            self._paho.disconnect()
            self._flush()
        self._end("left")

    def read(self, wanted: bool) -> None:
        """Pause or resume reading: TCP then tells the broker to wait."""
        if self._socket and not self.closed.done() and wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._socket, self._on_readable)
            else:
                self._loop.remove_reader(self._socket)

    def _unwatch(self) -> None:
        """Before the descriptor is closed: the next connection may get the same number."""
        if self._socket and self._reading:
            self._loop.remove_reader(self._socket)
        if self._socket and self._writing:
            self._loop.remove_writer(self._socket)
        self._reading = self._writing = False

    def _on_readable(self) -> None:
        while not self.closed.done():
            self._paho.loop_read()
            # TLS may hold decrypted bytes that no poll will ever announce.
            if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
                break
        self._flush()

    def _flush(self) -> None:
        """Write what waits now; watch the socket only if it did not take everything."""
        if self.closed.done() or self._socket is None:
            return
        if self._paho.want_write():
            self._paho.loop_write()
        unsent = self._paho.want_write() and not self.closed.done()
        if unsent and not self._writing:
            self._loop.add_writer(self._socket, self._flush)
        elif self._writing and not unsent:
            self._loop.remove_writer(self._socket)
        self._writing = unsent

    def _tick(self) -> None:
        self._misc = self._loop.call_later(misc_period_s, self._tick)
        self._paho.loop_misc()
        self._flush()

    def _end(self, why: str) -> None:
        if self.closed.done():
            return
        self.closed.set_result(None)
        if not self.opened.done():
            self.opened.set_exception(LostError(why))
            self.opened.exception()  # seen, should nobody be waiting any more
        if self._misc:
            self._misc.cancel()
        self._unwatch()
        if self._socket:
            self._socket.close()
        for ack in self._acks.values():
            ack.set_exception(LostError(why))
            ack.exception()
            self.slots.release()
        self._acks.clear()

    # paho's callbacks, all in the loop's thread but those of opening a socket

    def _on_socket_close(self, _client: paho.Client, _data: object, _sock: object) -> None:
        self._unwatch()

    def _on_connect(
        self,
        client: paho.Client,
        _data: object,
        _flags: object,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._end(f"connection refused: {reason}")
        elif self._settings.subscriptions:
            client.subscribe([(topic, 1) for topic in self._settings.subscriptions])
        elif not self.opened.done():
            self.opened.set_result(None)

    def _on_subscribe(
        self,
        _client: paho.Client,
        _data: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for topic, reason in zip(self._settings.subscriptions, reasons, strict=False):
            if reason.is_failure:
                self._inbox.counts["subscription-refused"] += 1
                log.error("the broker refuses the subscription to %s", topic)
        if not self.opened.done():
            self.opened.set_result(None)

    def _on_publish(
        self,
        _client: paho.Client,
        _data: object,
        mid: int,
        _reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        ack = self._acks.pop(mid, None)
        if ack:
            ack.set_result(None)
            self.slots.release()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._inbox.put(Message(message.topic, bytes(message.payload), bool(message.retain)))
        if self._inbox.full:
            self.read(False)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _data: object,
        _flags: object,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._end(f"connection lost: {reason}")


def pinned(certificate: str) -> ssl.SSLContext:
    """For a TLS client that trusts this certificate (PEM) and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The broker is known by its pinned key; its address changes with the lab.
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context


def _set_nodelay(_client: paho.Client, _data: object, sock: paho.SocketLike) -> None:
    assert isinstance(sock, socket.socket)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Inbox:
    """Messages that wait for the consumer. Full: reading stops; what still comes is dropped."""

    # One read may bring as many packets more as publishes are in flight.
    _room = inbound_messages_max + inflight_publishes_max

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._queue: asyncio.Queue[Message] = asyncio.Queue(self._room)

    @property
    def full(self) -> bool:
        return self._queue.qsize() >= inbound_messages_max

    @property
    def drained(self) -> bool:
        return self._queue.qsize() <= inbound_messages_max // 2

    def put(self, message: Message) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.counts["dropped"] += 1

    async def get(self) -> Message:
        return await self._queue.get()
