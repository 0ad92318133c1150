"""A client without manners: raw bytes to a broker, for what a good library would not send."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from gateway.mqtt.packets import PublishPacket, parse_packet, puback

deadline_s = 60.0  # generous: other tests share the machine


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2) + data


def packet(first_byte: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([first_byte])
    while True:
        length, low = length >> 7, length & 0x7F
        head.append(low | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def connect_bytes(
    client_id: str,
    user_name: str,
    password: str,
    *,
    will: tuple[str, bytes] | None = None,
    will_retain: bool = False,
    keepalive_s: int = 30,
    level: int = 4,
) -> bytes:
    flags = 0xC2 | ((0x0C | (0x20 if will_retain else 0)) if will else 0)
    body = text("MQTT") + bytes([level, flags]) + keepalive_s.to_bytes(2) + text(client_id)
    if will:
        body += text(will[0]) + text(will[1])
    return packet(0x10, body + text(user_name) + text(password))


class RawClient:
    """`async with RawClient(host, port) as client`."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def publish(self, topic: str, payload: bytes, *, flags: int = 0x02) -> None:
        packet_id = b"\0\7" if flags & 0x06 else b""
        await self.send(packet(0x30 | flags, text(topic) + packet_id + payload))

    async def subscribe(self, topic_filter: str) -> None:
        """Returns when the broker has granted it, with QoS 1."""
        await self.send(packet(0x82, b"\0\1" + text(topic_filter) + b"\1"))
        async with asyncio.timeout(deadline_s):
            assert await self.reader.readexactly(5) == b"\x90\x03\0\1\1"

    async def take(self, count: int) -> list[bytes]:
        """The payloads of the next messages. Each is acknowledged as it is read."""
        payloads: list[bytes] = []
        async with asyncio.timeout(deadline_s):
            while len(payloads) < count:
                match parse_packet(*await self._next_packet()):
                    case PublishPacket(packet_id=int(packet_id), payload=payload):
                        payloads.append(payload)
                        await self.send(puback(packet_id))
        return payloads

    async def _next_packet(self) -> tuple[int, bytes]:
        (first_byte,) = await self.reader.readexactly(1)
        length = shift = 0
        while True:
            (byte,) = await self.reader.readexactly(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return first_byte, await self.reader.readexactly(length)

    async def accepted(self) -> bool:
        async with asyncio.timeout(deadline_s):
            return await self.reader.readexactly(4) == b"\x20\x02\x00\x00"

    async def refused(self) -> bool:
        """A CONNACK with a failure code, or nothing at all, and then the end."""
        async with asyncio.timeout(deadline_s):
            answer = await self._rest()
        return not answer.startswith(b"\x20\x02\x00\x00")

    async def closed(self) -> bool:
        async with asyncio.timeout(deadline_s):
            await self._rest()
        return True

    async def _rest(self) -> bytes:
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def abort(self) -> None:
        self.writer.transport.abort()
