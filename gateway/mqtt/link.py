"""One connection to the broker, driven by the asyncio loop, and the messages that arrive on it.

The event loop watches paho's socket, without a thread (the README has the figures). TCP_NODELAY is
set, and no callback blocks. Every connection is a new paho client, so no half-sent state outlives
it. `client` reconnects.
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
from paho.mqtt.reasoncodes import ReasonCode

__all__ = [
    "PRESENCE_S",
    "LostError",
    "Message",
    "MqttInbox",
    "MqttLink",
    "MqttSettings",
    "Presence",
    "pinned",
]

log = logging.getLogger(__name__)

inflight_publishes_max = 100
inbound_messages_max = 1000
connect_timeout_s = 3.0
misc_period_s = 1.0
PRESENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the broker."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Presence:
    """The status of this client: `online` every PRESENCE_S while connected, `offline` as its will.
    It is not retained: a status that stays when its client is removed would be believed."""

    topic: str
    online: bytes
    offline: bytes


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """Where to connect, as whom, and the subscriptions. `password` is never shown. `trust` is the
    broker's certificate (PEM): with it the connection is TLS 1.3, and no other broker passes."""

    host: str
    port: int
    name: str
    password: str | None = field(default=None, repr=False)
    subscriptions: tuple[str, ...] = ()
    presence: Presence | None = None
    trust: str = ""
    clean_session: bool = True
    keepalive_s: int = 30


_BAD_LOGIN = ("Bad user name or password", "Not authorized")  # MQTT 3.1.1: codes 4 and 5


class LostError(Exception):
    """This connection was lost or refused."""


class MqttLink:
    """One connection, from CONNECT to its end. All methods run in the event loop's thread."""

    def __init__(self, settings: MqttSettings, inbox: MqttInbox) -> None:
        self._settings, self._inbox = settings, inbox
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.slots = asyncio.Semaphore(inflight_publishes_max)
        self._acks: dict[int, asyncio.Future[None]] = {}
        self._socket: socket.socket | None = None
        self._misc: asyncio.TimerHandle | None = None
        self._presence: asyncio.TimerHandle | None = None
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
            client.will_set(presence.topic, presence.offline, qos=1)
        client.on_socket_open = _set_nodelay
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    async def open(self) -> None:
        """Connects, subscribes, publishes the status. Raises OSError, TimeoutError or LostError."""
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
        self._announce()

    def _announce(self) -> None:
        if presence := self._settings.presence:
            self._paho.publish(presence.topic, presence.online)
            self._presence = self._loop.call_later(PRESENCE_S, self._announce)
            self._flush()

    def publish(self, topic: str, payload: bytes) -> asyncio.Future[None]:
        """Sends. The future ends at PUBACK or fails with LostError; then the slot is free again."""
        info = self._paho.publish(topic, payload, qos=1)
        acked = self._loop.create_future()
        if self.closed.done():  # this write found that the connection is lost
            self.slots.release()
            acked.set_exception(LostError("the connection was lost"))
            return acked
        self._acks[info.mid] = acked
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end(f"publish: {paho.error_string(info.rc)}")
        self._flush()
        return acked

    def leave(self) -> None:
        """Sends DISCONNECT, so that the broker does not publish the will, and closes."""
        if self.opened.done() and not self.closed.done():
            if presence := self._settings.presence:
                self._paho.publish(presence.topic, presence.offline, qos=1)
            self._paho.disconnect()
            self._flush()
        self._end("left")

    def read(self, wanted: bool) -> None:
        """Pauses or resumes reading. While it is paused, TCP makes the broker wait."""
        if self._socket and not self.closed.done() and wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._socket, self._on_readable)
            else:
                self._loop.remove_reader(self._socket)

    def _unwatch(self) -> None:
        """Call it before the descriptor is closed: the next connection may get the same number."""
        if self._socket and self._reading:
            self._loop.remove_reader(self._socket)
        if self._socket and self._writing:
            self._loop.remove_writer(self._socket)
        self._reading = self._writing = False

    def _on_readable(self) -> None:
        while not self.closed.done():
            self._paho.loop_read()
            # TLS may hold decrypted bytes, for which the socket never becomes readable.
            if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
                break
        self._flush()

    def _flush(self) -> None:
        """Writes what waits. Watches the socket only if it did not take everything."""
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
            self.opened.exception()  # marks it as seen: nobody may be waiting any more
        for timer in (self._misc, self._presence):
            if timer:
                timer.cancel()
        self._unwatch()
        if self._socket:
            self._socket.close()
        for ack in self._acks.values():
            ack.set_exception(LostError(why))
            ack.exception()
            self.slots.release()
        self._acks.clear()

    # paho's callbacks. All run in the event loop's thread, except those that open a socket.

    def _on_socket_close(self, *_: object) -> None:
        self._unwatch()

    def _on_connect(
        self, client: paho.Client, _data: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        if reason.is_failure:
            self._inbox.counts["bad-login"] += reason.getName() in _BAD_LOGIN
            self._end(f"connection refused: {reason}")
        elif self._settings.subscriptions:
            client.subscribe([(topic, 1) for topic in self._settings.subscriptions])
        elif not self.opened.done():
            self.opened.set_result(None)

    def _on_subscribe(
        self, _client: object, _data: object, _mid: int, reasons: list[ReasonCode], *_: object
    ) -> None:
        for topic, reason in zip(self._settings.subscriptions, reasons, strict=False):
            if reason.is_failure:
                self._inbox.counts["subscription-refused"] += 1
                log.error("the broker refuses the subscription to %s", topic)
        if not self.opened.done():
            self.opened.set_result(None)

    def _on_publish(self, _client: object, _data: object, mid: int, *_: object) -> None:
        ack = self._acks.pop(mid, None)
        if ack:
            ack.set_result(None)
            self.slots.release()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self._inbox.put(Message(message.topic, bytes(message.payload)))
        if self._inbox.full:
            self.read(False)

    def _on_disconnect(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        self._end(f"connection lost: {reason}")


def pinned(certificate: str) -> ssl.SSLContext:
    """The context of a TLS client that trusts only this certificate (PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The certificate identifies the broker; its address changes with the lab.
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context


def _set_nodelay(_client: paho.Client, _data: object, sock: paho.SocketLike) -> None:
    assert isinstance(sock, socket.socket)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class MqttInbox:
    """Messages that wait for the consumer. When it is full, reading stops; the rest is dropped."""

    # One read may bring as many more packets as publishes are in flight.
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
