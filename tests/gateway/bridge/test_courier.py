"""The courier: what is in the outbox arrives, even when the broker acknowledged it and lost it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.bridge.courier import Courier
from gateway.bridge.outbox import Outbox, OutboxCorruptError, OutboxFullError
from gateway.mqtt.client import MqttClient, MqttSettings
from gateway.mqtt.topics import Role, Up
from tests.gateway.broker.brokers import (
    NET,
    ROOT,
    next_payloads,
    running,
    served,
    story,
    until,
    user,
)

GATEWAY, DEVICE = user(Role.GATEWAY, "a"), user(Role.DEVICE, "b")
ALL_UP = f"{ROOT}/up/+/+/+"
DATA = str(Up(NET, DEVICE.node, DEVICE.node, "data"))


def digest(number: int) -> bytes:
    return number.to_bytes(32)


@story
async def test_an_acknowledged_but_unanswered_message_is_sent_again(tmp_path: Path) -> None:
    """Nobody was subscribed, so the broker acknowledged and forgot it."""
    outbox = Outbox(tmp_path / "outbox.db")
    async with (
        served(tmp_path, [GATEWAY, DEVICE]) as broker,
        broker.client(DEVICE) as device,
    ):
        courier = Courier(outbox, device, resend_s=0.2)
        async with running(courier.run()):
            assert await courier.send(digest(1), DATA, b"important")
            assert not await courier.send(digest(1), DATA, b"important")
            await until(lambda: courier.counts["resent"] > 0)
            async with broker.client(GATEWAY, ALL_UP) as gateway:
                assert await next_payloads(gateway, 1) == [b"important"]
            assert await courier.done(digest(1))
            assert not await courier.done(digest(1))
            sent = courier.counts["sent"] + courier.counts["resent"]
            assert await courier.send(digest(2), DATA, b"next")
            await until(lambda: courier.counts["resent"] + courier.counts["sent"] > sent + 1)
            assert [entry.digest for entry in outbox.pending()] == [digest(2)]


@story
async def test_what_an_earlier_process_left_is_sent_in_order(tmp_path: Path) -> None:
    earlier = Outbox(tmp_path / "outbox.db")
    for number in range(20):
        earlier.put(digest(number), DATA, b"%d" % number)
    earlier.close()
    async with (
        served(tmp_path, [GATEWAY, DEVICE]) as broker,
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as device,
    ):
        courier = Courier(Outbox(tmp_path / "outbox.db"), device)
        async with running(courier.run()):
            assert await next_payloads(gateway, 20) == [b"%d" % number for number in range(20)]


@story
async def test_a_full_outbox_is_the_senders_backpressure(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", entries_max=2)
    async with (
        served(tmp_path, [DEVICE]) as broker,
        broker.client(DEVICE) as device,
    ):
        courier = Courier(outbox, device)
        async with running(courier.run()):
            await courier.send(digest(1), DATA, b"1")
            await courier.send(digest(2), DATA, b"2")
            with pytest.raises(OutboxFullError, match="2 entries"):
                await courier.send(digest(3), DATA, b"3")
            await courier.done(digest(1))
            assert await courier.send(digest(3), DATA, b"3")


@story
async def test_a_damaged_outbox_ends_it_by_name(tmp_path: Path) -> None:
    """Whoever runs it knows that error, and not a group around it."""
    earlier = Outbox(tmp_path / "outbox")
    earlier.put(bytes(32), "topic", b"payload")
    earlier.close()
    with closing(sqlite3.connect(tmp_path / "outbox")) as database, database:
        database.execute("UPDATE entry SET payload = x'00'")
    outbox = Outbox(tmp_path / "outbox")
    client = MqttClient(MqttSettings("127.0.0.1", 1, "nobody"))
    with pytest.raises(OutboxCorruptError, match="outbox"):
        await Courier(outbox, client).run()
    outbox.close()
