"""A man in the middle of a device's connection to the broker: a real socket on either side.

The seam `middle`. The device connects to it, and it connects to the broker. Without an order it
passes on every byte. An order changes the messages that the device publishes (`Middle`). It writes
each message that it sent in the device's place as one line to `middle.jsonl`, for the judge. It
needs MQTT in the clear: with a TLS broker it can read and alter nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Literal

import msgspec

from chain.errors import PeerFault
from gateway.bridge.edge import Stamped, ask_codec, stamped_codec
from gateway.mqtt.link import MqttSettings
from gateway.mqtt.packets import PublishPacket, parse_packet, puback, read_after
from gateway.mqtt.topics import Request, Response, Topic, Up, parse
from gateway.tasks import Tasks
from nodes.switch.alterations import altered, downgraded, false_answer, request_of

__all__ = ["SEAM", "SENT", "Middle", "MiddleSeam"]

SEAM = "middle"
SENT = "middle.jsonl"

PACKET_BYTES_MAX = 256 * 1024
OWN_PACKET_IDS = 50_000  # his ids begin here: a device never comes so far
SENT_MAX = 10_000  # lines of `middle.jsonl`
ASKED_MAX = 16

How = Literal["alter", "downgrade", "reflect", "drop", "delay", "answer"]


class Middle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The treatment of each message that the device publishes.

    `alter` and `downgrade`: `copies` changed ones arrive before it, each with another change.
    `reflect`: the gateway's answers are sent up in the device's name. `drop`: it is taken away and
    acknowledged, so that the device believes that the broker has it. `answer`: like `drop`, and
    `copies` false answers come to the device. `delay`: it waits `delay_ms`.
    """

    how: How
    seed: int
    copies: int = 1
    delay_ms: int = 0


class MiddleSeam:
    """Listens on loopback from the beginning, for one device. `sent` is where he writes."""

    def __init__(self, sent: Path) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._upstream = ("", 0)
        self._path = sent
        self._name = ""
        self._order: Middle | None = None
        self._random = Random(0)  # noqa: S311 - repeatable, not secret
        self._lines = 0
        self._own_id = OWN_PACKET_IDS
        self._own: set[int] = set()
        self._asked: deque[bytes] = deque(maxlen=ASKED_MAX)  # ids of the device's newest requests
        self._receipt = b"", b""  # a true one, and the request that it is for

    def between(self, settings: MqttSettings) -> MqttSettings:
        """The settings of a client that connects to him instead of the broker."""
        self._upstream = settings.host, settings.port
        host, port = self._socket.getsockname()
        return replace(settings, host=host, port=port)

    async def serve(self) -> None:
        """Runs until cancelled."""
        async with await asyncio.start_server(self._serve, sock=self._socket) as server:
            await server.serve_forever()

    def take(self, orders: Mapping[str, Middle]) -> None:
        """The newest order counts."""
        self._name, self._order = next(reversed(list(orders.items())), ("", None))
        if self._order is not None:
            self._random = Random(self._order.seed)  # noqa: S311 - repeatable, not secret

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.close()
            return
        try:
            async with Tasks() as tasks:
                ways = (
                    tasks.start(self._to_broker(reader, up_writer, writer)),
                    tasks.start(self._to_device(up_reader, writer, up_writer)),
                )
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (writer, up_writer):
                each.close()

    async def _to_broker(
        self,
        device: asyncio.StreamReader,
        broker: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(OSError, EOFError, PeerFault):
            while True:
                packet, publish = await _read_packet(device)
                await self._pass_up(packet, publish, broker, back)
                await broker.drain()

    async def _pass_up(
        self,
        packet: bytes,
        publish: PublishPacket | None,
        broker: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        order = self._order
        body = None if publish is None else _body_of(publish)
        if body is not None and (request := request_of(body)) is not None:
            self._asked.append(request)
        if order is None or publish is None or publish.packet_id is None:
            broker.write(packet)
            return
        match order.how:
            case "alter" | "downgrade" if body is not None:
                change = altered if order.how == "alter" else downgraded
                for _ in range(order.copies):
                    changed, what = change(body, self._random)
                    payload = _with_body(publish, changed)
                    self._send(broker, publish.topic, payload, changed, what)
            case "drop" | "answer":
                back.write(puback(publish.packet_id))
                if body is not None:
                    self._note(body, "dropped")
                    if order.how == "answer":
                        self._answer(back, publish, body)
                return
            case "delay":
                await asyncio.sleep(order.delay_ms / 1000)
                if body is not None:
                    self._note(body, "delayed")
        broker.write(packet)

    async def _to_device(
        self,
        broker: asyncio.StreamReader,
        device: asyncio.StreamWriter,
        up: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(OSError, EOFError, PeerFault):
            while True:
                packet, publish = await _read_packet(broker)
                if packet[0] >> 4 == 4 and int.from_bytes(packet[2:4]) in self._own:
                    self._own.discard(int.from_bytes(packet[2:4]))
                    continue  # the broker acknowledges what we sent
                if publish is not None:
                    self._keep_receipt(publish)
                    if self._order is not None and self._order.how == "reflect":
                        self._reflect(up, publish)
                device.write(packet)
                await device.drain()

    def _reflect(self, up: asyncio.StreamWriter, answer: PublishPacket) -> None:
        """An answer of the gateway, sent to it as this device's request."""
        topic = _topic(answer)
        if isinstance(topic, Response):
            body = answer.payload[:16_000]
            payload = stamped_codec.encode(Stamped(n=0, boot=0, at_ms=0, body=body))
            to = str(Up(topic.net, topic.device, topic.device, "op"))
            self._send(up, to, payload, body, "reflected")

    def _keep_receipt(self, answer: PublishPacket) -> None:
        """Keeps a receipt together with the request that it is for."""
        if answer.topic.endswith("/receipt"):
            of = next((each for each in self._asked if each in answer.payload), None)
            if of is not None:
                self._receipt = answer.payload, of

    def _answer(self, device: asyncio.StreamWriter, publish: PublishPacket, body: bytes) -> None:
        """Answers the device in the gateway's place."""
        order, topic, request = self._order, _topic(publish), request_of(body)
        if order is None or request is None or not isinstance(topic, Request | Up):
            return
        for _ in range(order.copies):
            kind, payload = false_answer(request, *self._receipt, self._random)
            device.write(_publish(str(Response(topic.net, topic.device, kind)), None, payload))

    def _send(
        self, broker: asyncio.StreamWriter, topic: str, payload: bytes, body: bytes, what: str
    ) -> None:
        """Publishes `payload`, in which `body` is, in the device's name."""
        self._own_id = OWN_PACKET_IDS + (self._own_id - OWN_PACKET_IDS + 1) % 15_000
        self._own.add(self._own_id)
        broker.write(_publish(topic, self._own_id, payload))
        self._note(body, what)

    def _note(self, body: bytes, what: str) -> None:
        self._lines += 1
        if self._lines <= SENT_MAX:
            request = request_of(body)
            line = {
                "t": time.time_ns(),
                "order": self._name,
                "what": what,
                "request": request.hex() if request else "-",
                "body": sha256(body).hexdigest(),
            }
            with self._path.open("a") as log:
                log.write(json.dumps(line) + "\n")


async def _read_packet(reader: asyncio.StreamReader) -> tuple[bytes, PublishPacket | None]:
    """One MQTT packet as it stands on the wire, and what it says if it is a PUBLISH."""
    head, body = await read_after(await reader.readexactly(1), reader, PACKET_BYTES_MAX)
    publish = None
    if head[0] >> 4 == 3:
        with contextlib.suppress(PeerFault):
            publish = parse_packet(head[0], body)
    return head + body, publish if isinstance(publish, PublishPacket) else None


def _topic(publish: PublishPacket) -> Topic | None:
    with contextlib.suppress(PeerFault):
        return parse(publish.topic)
    return None


def _body_of(publish: PublishPacket) -> bytes | None:
    """The signed request in a message; None if there is none."""
    topic = _topic(publish)
    with contextlib.suppress(PeerFault):
        if isinstance(topic, Request):
            ask = ask_codec.decode(publish.payload)
            return ask.body if ask.kind in ("enrol", "op") else None
        if isinstance(topic, Up) and topic.kind in ("enrol", "op"):
            return stamped_codec.decode(publish.payload).body
    return None


def _with_body(publish: PublishPacket, body: bytes) -> bytes:
    """The payload of a message around another body."""
    if isinstance(_topic(publish), Request):
        ask = ask_codec.decode(publish.payload)
        return ask_codec.encode(msgspec.structs.replace(ask, body=body))
    stamped = stamped_codec.decode(publish.payload)
    return stamped_codec.encode(msgspec.structs.replace(stamped, body=body))


def _publish(topic: str, packet_id: int | None, payload: bytes) -> bytes:
    """PUBLISH with QoS 1, without an id with QoS 0 (3.3)."""
    name = topic.encode()
    number = b"" if packet_id is None else packet_id.to_bytes(2)
    body = len(name).to_bytes(2) + name + number + payload
    length, size = bytearray(), len(body)
    while True:
        size, low = divmod(size, 128)
        length.append(low | (0x80 if size else 0))
        if not size:
            return (b"\x32" if number else b"\x30") + bytes(length) + body
