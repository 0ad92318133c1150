"""The MQTT client: a broker that comes and goes, a slow consumer, TLS with client certificates."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from chain.errors import Misuse
from gateway.mqtt.client import (
    BrokerUnavailableError,
    MqttClient,
    MqttSettings,
)
from gateway.mqtt.link import inbound_messages_max, inflight_publishes_max
from gateway.mqtt.topics import Role, Up
from tests.gateway.broker.brokers import (
    NET,
    ROOT,
    next_payloads,
    running,
    started,
    story,
    until,
    user,
)

GATEWAY, DEVICE = user(Role.GATEWAY, "a"), user(Role.DEVICE, "b")
ALL_UP = f"{ROOT}/up/+/+/+"
DATA = str(Up(NET, DEVICE.node, DEVICE.node, "data"))


@story
async def test_without_a_broker_a_publish_says_so_in_time() -> None:
    client = MqttClient(MqttSettings("127.0.0.1", 1, "nobody"))
    async with running(client.run()):
        with pytest.raises(BrokerUnavailableError, match=r"not acknowledged within 0\.2 s"):
            await client.publish("t", b"x", deadline_s=0.2)
        with pytest.raises(BrokerUnavailableError, match=r"no connection to .* as nobody"):
            await client.ready(0.1)
        await until(lambda: client.counts["refused"] >= 1)


@story
async def test_a_publish_waits_for_the_broker_to_come_back(tmp_path: Path) -> None:
    async with (
        started(tmp_path, "embedded", [GATEWAY, DEVICE]) as broker,
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as device,
    ):
        broker.kill()
        await until(lambda: not device.is_up)
        waiting = asyncio.create_task(device.publish(DATA, b"patient"))
        await broker.start()
        await waiting
        await gateway.ready()
        await device.publish(DATA, b"after")
        heard = await next_payloads(gateway, 1)  # "patient" came, or was before the subscription
        assert b"after" in heard or await next_payloads(gateway, 1) == [b"after"]
        assert device.counts["connected"] == 2


@story
async def test_what_would_be_old_news_is_not_sent_over_the_next_connection(tmp_path: Path) -> None:
    """A gateway that was cut off must not add a login that it decided on before."""
    async with (
        started(tmp_path, "embedded", [GATEWAY, DEVICE]) as broker,
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as device,
    ):
        assert broker.process is not None
        os.kill(broker.process.pid, signal.SIGSTOP)  # it takes nothing, and the connection stands
        asked = asyncio.create_task(device.publish(DATA, b"old", again=False))
        await asyncio.sleep(0)
        broker.kill()
        with pytest.raises(BrokerUnavailableError, match="connection is lost"):
            await asked
        await until(lambda: not device.is_up)
        with pytest.raises(BrokerUnavailableError, match="connection is lost"):
            await device.publish(DATA, b"old", again=False)
        await broker.start()
        await gateway.ready()
        await device.publish(DATA, b"new")
        assert await next_payloads(gateway, 1) == [b"new"]


@story
async def test_a_slow_consumer_makes_the_broker_wait(tmp_path: Path) -> None:
    """Reading stops at the limit, nothing is dropped, and goes on when the consumer does."""
    total = inbound_messages_max + 500
    async with (
        started(tmp_path, "embedded", [GATEWAY, DEVICE]) as broker,
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as device,
    ):
        publishing = asyncio.gather(*(device.publish(DATA, b"%d" % i) for i in range(total)))
        link = gateway._link  # a pause in reading shows nowhere else until it has gone wrong
        assert link is not None
        await until(lambda: gateway._inbox.full and not link._reading)
        await publishing
        piled_up = gateway._inbox._queue.qsize()
        assert inbound_messages_max <= piled_up <= inbound_messages_max + inflight_publishes_max
        payloads = await next_payloads(gateway, total)
        assert set(payloads) == {b"%d" % i for i in range(total)}
        assert gateway.counts["dropped"] == 0


def test_a_payload_beyond_the_limit_is_a_bug() -> None:
    with pytest.raises(Misuse, match="at most"):
        asyncio.run(MqttClient(MqttSettings("h", 1, "n")).publish("t", b"x" * 65536))


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(MqttSettings("h", 1, "n", password="hunter2"))
