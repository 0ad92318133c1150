"""The door's reader of packets: strict, total, and never of another opinion than amqtt."""

from __future__ import annotations

import asyncio

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.connect import ConnectPacket as TheirConnect
from amqtt.mqtt.subscribe import SubscribePacket as TheirSubscribe
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import PeerFault
from gateway.mqtt.packets import (
    ConnectPacket,
    OtherPacket,
    PublishPacket,
    SubscribePacket,
    parse_connect,
    parse_packet,
)
from tests.gateway.broker.raw_mqtt import connect_bytes, packet, text

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def split(whole: bytes) -> tuple[int, bytes]:
    at = next(i for i in range(1, 5) if whole[i] < 0x80) + 1
    return whole[0], whole[at:]


@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(first_byte: int, body: bytes) -> None:
    for parse in (parse_connect, parse_packet):
        try:
            parse(first_byte, body)
        except PeerFault as fault:
            known = {"bad-packet", "bad-version", "not-connect", "qos-2"}
            assert fault.code in known  # noqa: PT017 - the other outcome is no error


@given(names, names, names, st.none() | st.tuples(names, st.binary(max_size=50)))
def test_a_login_is_read_as_amqtt_reads_it(
    client_id: str, user: str, password: str, will: tuple[str, bytes] | None
) -> None:
    whole = connect_bytes(client_id, user, password, will=will)
    ours = parse_connect(*split(whole))
    reader = BufferReader(whole)
    theirs = asyncio.run(TheirConnect.from_stream(reader))
    assert asyncio.run(reader.read(1)) == b""
    topic = will[0] if will else None
    assert ours == ConnectPacket(client_id, user, password, topic, False, True, 30)
    if client_id:  # amqtt invents one where there is none; the door has refused that by then
        assert (theirs.client_id, theirs.username, theirs.password) == (client_id, user, password)


@given(st.lists(names, min_size=1, max_size=5), st.integers(0, 2))
def test_subscriptions_are_read_as_amqtt_reads_them(filters: list[str], qos: int) -> None:
    body = b"\0\7" + b"".join(text(name) + bytes([qos]) for name in filters)
    assert parse_packet(0x82, body) == SubscribePacket(tuple(filters))
    reader = BufferReader(packet(0x82, body))
    theirs = asyncio.run(TheirSubscribe.from_stream(reader))
    assert theirs.payload is not None
    assert [name for name, _ in theirs.payload.topics] == filters
    assert asyncio.run(reader.read(1)) == b""


@given(names, st.binary(max_size=100), st.booleans())
def test_publishes_are_read(topic: str, payload: bytes, retain: bool) -> None:
    assert parse_packet(0x32 | retain, text(topic) + b"\1\2" + payload) == PublishPacket(
        topic, 0x102, retain, payload
    )
    assert parse_packet(0x30, text(topic) + payload) == PublishPacket(topic, None, False, payload)


@pytest.mark.parametrize(
    ("first_byte", "body"),
    [
        (0x40, b"\0\1extra"),  # bytes behind a PUBACK would be the next packet to amqtt
        (0xC0, b"x"),
        (0xE0, b"\x30\x05\0\1xhi"),
        (0x82, b"\0\1"),
        (0x82, b"\0\0" + text("a") + b"\0"),
        (0x82, b"\0\1" + text("a") + b"\3"),
        (0x80, b"\0\1" + text("a") + b"\0"),
        (0x82, b"\0\1" + b"\0\2\xff\xfe\0"),
        (0x32, text("a") + b"\0\0"),
        (0x38, text("a")),
        (0x10, b""),
        (0x50, b"\0\1"),
        (0x62, b"\0\1"),
        (0x20, b"\0\0"),
        (0x00, b""),
        (0xF0, b""),
    ],
)
def test_what_a_client_must_not_send_is_refused(first_byte: int, body: bytes) -> None:
    with pytest.raises(PeerFault, match="bad-packet"):
        parse_packet(first_byte, body)


def test_qos_2_is_not_spoken() -> None:
    with pytest.raises(PeerFault, match="qos-2"):
        parse_packet(0x34, text("a") + b"\0\1x")


def test_packets_without_a_decision() -> None:
    for first_byte, body in (
        (0x40, b"\0\1"),
        (0xA2, b"\0\1" + text("a")),
        (0xC0, b""),
        (0xE0, b""),
    ):
        assert parse_packet(first_byte, body) == OtherPacket()


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(parse_connect(*split(connect_bytes("a", "a", "hunter2"))))
