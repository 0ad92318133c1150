"""A strict reader of what clients send to a broker: MQTT 3.1.1, QoS 0 and 1.

The door of the embedded broker reads each packet with it before amqtt does. Every field must be in
its place and no byte may be left over, so a packet that two parsers could read differently is
refused. All functions but `read_after` are pure. Section numbers are those of the OASIS standard.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from chain.errors import PeerFault

__all__ = [
    "ConnectPacket",
    "OtherPacket",
    "Packet",
    "PublishPacket",
    "SubscribePacket",
    "connack",
    "parse_connect",
    "parse_packet",
    "puback",
    "read_after",
]

# Packet types (2.2.1)
_CONNECT, _PUBLISH, _PUBACK = 1, 3, 4

ACCEPTED, BAD_VERSION, BAD_IDENTIFIER, BAD_PASSWORD, NOT_AUTHORISED = 0, 1, 2, 4, 5


@dataclass(frozen=True, slots=True)
class ConnectPacket:
    client_id: str
    user_name: str | None
    password: str | None = field(repr=False)
    will_topic: str | None
    will_retain: bool
    clean_session: bool
    keepalive_s: int


@dataclass(frozen=True, slots=True)
class PublishPacket:
    topic: str
    packet_id: int | None
    retain: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class SubscribePacket:
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OtherPacket:
    """PUBACK, UNSUBSCRIBE, PINGREQ or DISCONNECT: always allowed."""


Packet = PublishPacket | SubscribePacket | OtherPacket


class _Reader:
    """Takes fields off a packet's body. Raises PeerFault("bad-packet") if the body is too short."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, count: int) -> bytes:
        piece = self._body[self._at : self._at + count]
        if len(piece) < count:
            raise PeerFault("bad-packet", "a field goes beyond its packet")
        self._at += count
        return piece

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count))

    def data(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            text = self.data().decode()
        except UnicodeDecodeError:
            raise PeerFault("bad-packet", "a text is not UTF-8") from None
        if "\0" in text:
            raise PeerFault("bad-packet", "a text holds U+0000")  # 1.5.3
        return text

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def end(self) -> None:
        if self.left:
            raise PeerFault("bad-packet", f"{self.left} bytes too many")


async def read_after(
    first: bytes, reader: asyncio.StreamReader, bytes_max: int
) -> tuple[bytes, bytes]:
    """The packet that begins with the byte `first`, as (fixed header, body). Raises
    PeerFault("bad-packet" | "oversized"), EOFError, OSError."""
    head, length, shift = first, 0, 0
    while True:  # 2.2.3
        byte = await reader.readexactly(1)
        head += byte
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            break
        if shift > 21:
            raise PeerFault("bad-packet", "remaining length")
    if length > bytes_max:
        raise PeerFault("oversized", f"{length} bytes")
    return head, await reader.readexactly(length)


def parse_connect(first_byte: int, body: bytes) -> ConnectPacket:
    """Reads CONNECT (3.1). Raises PeerFault("not-connect" | "bad-version" | "bad-packet")."""
    if first_byte != _CONNECT << 4:
        raise PeerFault("not-connect", f"the first packet has type {first_byte >> 4}")
    reader = _Reader(body)
    if (reader.data(), reader.number(1)) != (b"MQTT", 4):
        raise PeerFault("bad-version", "MQTT 3.1.1 only")
    flags, keepalive_s = reader.number(1), reader.number(2)
    has_user, has_password, has_will = flags & 0x80, flags & 0x40, flags & 0x04
    will_qos = flags >> 3 & 3
    if flags & 1 or (has_password and not has_user) or will_qos > 1:
        raise PeerFault("bad-packet", f"CONNECT flags {flags:#x}")
    if not has_will and flags & 0x38:
        raise PeerFault("bad-packet", "will flags without a will")
    client_id = reader.text()
    will_topic = reader.text() if has_will else None
    if has_will:
        reader.data()
    user_name = reader.text() if has_user else None
    password = reader.text() if has_password else None
    reader.end()
    will_retain, clean_session = bool(flags & 0x20), bool(flags & 2)
    return ConnectPacket(
        client_id, user_name, password, will_topic, will_retain, clean_session, keepalive_s
    )


def parse_packet(first_byte: int, body: bytes) -> Packet:
    """Reads any later packet. Raises PeerFault("bad-packet" | "qos-2")."""
    kind, flags = first_byte >> 4, first_byte & 0x0F
    if kind == _PUBLISH:
        return _parse_publish(flags, body)
    reader = _Reader(body)
    match kind, flags:
        case (4, 0):  # PUBACK
            reader.number(2)
            found: Packet = OtherPacket()
        case (8, 2):  # SUBSCRIBE
            found = _parse_subscribe(reader)
        case (10, 2):  # UNSUBSCRIBE
            reader.number(2)
            reader.text()
            while reader.left:
                reader.text()
            found = OtherPacket()
        case (12, 0) | (14, 0):  # PINGREQ, DISCONNECT
            found = OtherPacket()
        case _:
            raise PeerFault("bad-packet", f"type {kind} with flags {flags:#x}")
    reader.end()
    return found


def _parse_publish(flags: int, body: bytes) -> PublishPacket:
    qos = flags >> 1 & 3
    if qos > 1:
        raise PeerFault("qos-2", "QoS 0 and 1 only")
    reader = _Reader(body)
    topic = reader.text()
    packet_id = reader.number(2) if qos else None
    if packet_id == 0 or (flags & 8 and not qos):  # 2.3.1, 3.3.1.1
        raise PeerFault("bad-packet", "packet identifier or DUP flag")
    return PublishPacket(topic, packet_id, bool(flags & 1), reader.take(reader.left))


def _parse_subscribe(reader: _Reader) -> SubscribePacket:
    if reader.number(2) == 0:
        raise PeerFault("bad-packet", "packet identifier 0")
    filters: list[str] = []
    while not filters or reader.left:  # 3.8.3: at least one
        filters.append(reader.text())
        if reader.number(1) > 2:
            raise PeerFault("bad-packet", "requested QoS")
    return SubscribePacket(tuple(filters))


def connack(code: int) -> bytes:
    """CONNACK that refuses (3.2). amqtt sends the one that accepts."""
    return bytes([0x20, 2, 0, code])


def puback(packet_id: int) -> bytes:
    return bytes([_PUBACK << 4, 2]) + packet_id.to_bytes(2)
