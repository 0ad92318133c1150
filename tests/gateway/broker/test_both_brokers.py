"""One conformance suite for both brokers: the permission table of `topics` is what is enforced.

A denied publish is never heard; a denied subscription hears nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.bridge.courier import Courier
from gateway.bridge.outbox import Outbox
from gateway.broker.port import DynamicSecurityAdmin
from gateway.broker.security import User, bootstrap_user
from gateway.mqtt.client import BrokerUnavailableError, MqttClient, Presence
from gateway.mqtt.topics import ADMIN_REQUEST, HeadTopic, Request, Response, Role, Status, Up
from tests.gateway.broker.brokers import (
    NET,
    ROOT,
    BrokerProcess,
    next_payloads,
    node,
    running,
    started,
    story,
    until,
    user,
    why_not,
)
from tests.gateway.broker.raw_mqtt import RawClient, connect_bytes, packet, text

GATEWAY, ADMIN = user(Role.GATEWAY, "a"), user(Role.ADMIN, "a")
DEVICE, OTHER, RELAY = user(Role.DEVICE, "b"), user(Role.DEVICE, "c"), user(Role.RELAY, "e")
OBSERVER, NEWCOMER = (
    user(Role.OBSERVER, "f"),
    bootstrap_user(b"public", b"a voucher's token"),
)
USERS = [GATEWAY, ADMIN, DEVICE, OTHER, RELAY, OBSERVER, NEWCOMER]

DATA = str(Up(NET, DEVICE.node, DEVICE.node, "data"))
ALL_UP = f"{ROOT}/up/+/+/+"


@pytest.fixture(params=["embedded", "mosquitto"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    if why := why_not(kind):
        pytest.skip(why)
    return kind


@pytest.fixture(scope="module")
def broker(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One broker for all stories that leave it as it was."""
    broker = BrokerProcess(tmp_path_factory.mktemp(kind), kind, USERS)
    asyncio.run(broker.start())
    yield broker
    assert broker.stop() == 0, broker.log()


async def silent(client: MqttClient, gateway: MqttClient, marker: str) -> None:
    """Nothing reached `client` before the marker that is sent to it last."""
    await gateway.publish(marker, b"marker")
    assert await next_payloads(client, 1) == [b"marker"]


@story
async def test_a_device_reports_and_only_it_hears_the_answer(broker: BrokerProcess) -> None:
    async with (
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE, f"{ROOT}/rsp/{DEVICE.node}/#") as device,
        broker.client(OTHER, f"{ROOT}/rsp/{OTHER.node}/#") as other,
    ):
        await device.publish(DATA, b"21.5 C")
        message = await gateway.receive()
        assert (message.topic, message.payload) == (DATA, b"21.5 C")
        await gateway.publish(str(Response(NET, DEVICE.node, "data")), b"stored")
        assert await next_payloads(device, 1) == [b"stored"]
        await silent(other, gateway, str(Response(NET, OTHER.node, "data")))


@story
async def test_a_relay_hears_requests_and_carries_them_under_its_own_name(
    broker: BrokerProcess,
) -> None:
    async with (
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(RELAY, f"{ROOT}/req/+") as relay,
        broker.client(DEVICE) as device,
    ):
        await device.publish(str(Request(NET, DEVICE.node)), b"please")
        heard = await relay.receive()
        assert heard.topic == str(Request(NET, DEVICE.node))
        stamped = str(Up(NET, RELAY.node, DEVICE.node, "data"))
        await relay.publish(stamped, heard.payload + b", stamped")
        assert (await gateway.receive()).topic == stamped


@pytest.mark.parametrize(
    ("who", "topic"),
    [
        (DEVICE, Up(NET, OTHER.node, OTHER.node, "data")),
        (DEVICE, Up(NET, RELAY.node, DEVICE.node, "data")),
        (DEVICE, Up(NET, DEVICE.node, OTHER.node, "data")),
        (RELAY, Up(NET, DEVICE.node, DEVICE.node, "data")),
        (OBSERVER, Up(NET, OBSERVER.node, OBSERVER.node, "data")),
        (NEWCOMER, Up(NET, NEWCOMER.node, NEWCOMER.node, "data")),
    ],
    ids=["other's", "as-relay", "for-other", "relay-as-device", "observer", "newcomer-data"],
)
@story
async def test_a_denied_publish_is_never_heard(broker: BrokerProcess, who: User, topic: Up) -> None:
    async with (
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(who) as client,
        broker.client(OTHER) as honest,
    ):
        # Mosquitto acknowledges and drops it, the embedded broker closes the connection.
        with suppress(BrokerUnavailableError):
            await client.publish(str(topic), b"forged", deadline_s=0.3)
        await honest.publish(str(Up(NET, OTHER.node, OTHER.node, "data")), b"honest")
        assert await next_payloads(gateway, 1) == [b"honest"]
        assert honest.counts["lost"] == gateway.counts["lost"] == 0


@pytest.mark.parametrize(
    "filter_",
    ["#", f"{ROOT}/#", ALL_UP, f"{ROOT}/rsp/+/+", f"{ROOT}/rsp/#", f"{ROOT}/rsp/{OTHER.node}/#"],
)
@story
async def test_a_denied_subscription_hears_nothing(broker: BrokerProcess, filter_: str) -> None:
    async with (
        broker.client(GATEWAY) as gateway,
        broker.client(OTHER) as other,
        broker.client(DEVICE, filter_, f"{ROOT}/chain/head") as device,
    ):
        await other.publish(str(Up(NET, OTHER.node, OTHER.node, "data")), b"not for you")
        await gateway.publish(str(Response(NET, OTHER.node, "data")), b"nor this")
        await silent(device, gateway, str(HeadTopic(NET)))


@story
async def test_a_newcomer_enrols_and_reads_the_head(broker: BrokerProcess) -> None:
    async with (
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(NEWCOMER, f"{ROOT}/rsp/{NEWCOMER.node}/#", f"{ROOT}/chain/head") as newcomer,
    ):
        await gateway.publish(str(HeadTopic(NET)), b"head 7")
        assert await next_payloads(newcomer, 1) == [b"head 7"]
        enrol = str(Up(NET, NEWCOMER.node, NEWCOMER.node, "enrol"))
        await newcomer.publish(enrol, b"request")
        assert (await gateway.receive()).topic == enrol


@pytest.mark.parametrize("password", ["wrong", ""])
@story
async def test_no_login_without_the_password(broker: BrokerProcess, password: str) -> None:
    stranger = User(Role.DEVICE, node("9"), "anything")
    for who in (User(DEVICE.role, DEVICE.node, password), stranger):
        async with broker.client(who, ready=False) as client:
            await until(lambda client=client: client.counts["refused"] >= 1)  # type: ignore[misc]
            assert not client.is_up


@story
async def test_nobody_takes_over_anothers_client_id(broker: BrokerProcess) -> None:
    async with (
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as device,
        RawClient("127.0.0.1", broker.port) as thief,
    ):
        assert OTHER.password is not None
        await thief.send(connect_bytes(DEVICE.name, OTHER.name, OTHER.password))
        assert await thief.refused()
        await device.publish(DATA, b"still here")
        assert await next_payloads(gateway, 1) == [b"still here"]
        assert device.counts["lost"] == 0


@story
async def test_a_second_login_of_the_same_name_ends_the_first(broker: BrokerProcess) -> None:
    async with RawClient("127.0.0.1", broker.port) as first:
        assert DEVICE.password is not None
        await first.send(connect_bytes(DEVICE.name, DEVICE.name, DEVICE.password))
        assert await first.accepted()
        async with broker.client(GATEWAY, ALL_UP) as gateway, broker.client(DEVICE) as second:
            assert await first.closed()
            await second.publish(DATA, b"from the second")
            assert await next_payloads(gateway, 1) == [b"from the second"]


@story
async def test_presence_is_repeated_and_the_will_speaks_for_the_dead(
    broker: BrokerProcess,
) -> None:
    topic = str(Status(NET, RELAY.node))
    presence = Presence(topic, b"online", b"offline")
    async with broker.client(GATEWAY, f"{ROOT}/status/+") as gateway:
        async with broker.client(RELAY, presence=presence):
            assert await next_payloads(gateway, 1) == [b"online"]
            async with broker.client(OBSERVER, f"{ROOT}/status/+") as late:
                assert await next_payloads(late, 1) == [b"online"]
        heard = await next_payloads(gateway, 1)
        while heard[-1] == b"online":
            heard = await next_payloads(gateway, 1)
        assert heard == [b"offline"]
        async with RawClient("127.0.0.1", broker.port) as doomed:
            assert RELAY.password is not None
            await doomed.send(
                connect_bytes(RELAY.name, RELAY.name, RELAY.password, will=(topic, b"died"))
            )
            assert await doomed.accepted()
            doomed.abort()
        assert await next_payloads(gateway, 1) == [b"died"]


@pytest.mark.parametrize("who", [DEVICE, RELAY, GATEWAY], ids=["device", "relay", "gateway"])
@story
async def test_nobody_makes_the_broker_keep_a_message(broker: BrokerProcess, who: User) -> None:
    """It would outlive its sender's login, and be believed. Neither with a message nor a will."""
    topic = {
        DEVICE.name: str(Request(NET, DEVICE.node)),
        RELAY.name: str(Status(NET, RELAY.node)),
        GATEWAY.name: str(HeadTopic(NET)),
    }[who.name]
    assert who.password is not None
    async with RawClient("127.0.0.1", broker.port) as client:
        await client.send(connect_bytes(who.name, who.name, who.password))
        assert await client.accepted()
        await client.send(packet(0x33, text(topic) + b"\0\1kept"))
        assert await client.closed()
    will = connect_bytes(who.name, who.name, who.password, will=(topic, b"kept"), will_retain=True)
    async with RawClient("127.0.0.1", broker.port) as client:
        await client.send(will)
        with suppress(asyncio.IncompleteReadError):  # Mosquitto closes without a word
            assert not await client.accepted()
    await broker.counted("retain-denied", at_least=2)
    async with broker.client(GATEWAY, f"{ROOT}/status/+", str(HeadTopic(NET))) as late:
        async with broker.client(RELAY) as relay:
            await relay.publish(str(Status(NET, RELAY.node)), b"live")
        assert await next_payloads(late, 1) == [b"live"]


@story
async def test_a_mobile_device_cannot_say_that_it_is_a_relay(broker: BrokerProcess) -> None:
    """Relays would leave it a share of all devices."""
    async with (
        broker.client(RELAY, f"{ROOT}/status/+") as relay,
        broker.client(DEVICE) as device,
        broker.client(GATEWAY) as gateway,
    ):
        with suppress(BrokerUnavailableError):
            await device.publish(str(Status(NET, DEVICE.node)), b"relay", deadline_s=0.3)
        await gateway.publish(str(Status(NET, GATEWAY.node)), b"gateway")
        heard = [b""]
        while heard[-1] != b"gateway":
            heard += await next_payloads(relay, 1)
        assert b"relay" not in heard


@story
async def test_an_oversized_message_harms_only_its_sender(broker: BrokerProcess) -> None:
    async with (
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(OTHER) as honest,
        RawClient("127.0.0.1", broker.port) as flood,
    ):
        assert DEVICE.password is not None
        await flood.send(connect_bytes(DEVICE.name, DEVICE.name, DEVICE.password))
        assert await flood.accepted()
        await flood.publish(DATA, b"x" * 10_000_000)
        assert await flood.closed()
        await honest.publish(str(Up(NET, OTHER.node, OTHER.node, "data")), b"honest")
        assert await next_payloads(gateway, 1) == [b"honest"]


@story
async def test_the_largest_message_we_may_send_arrives(broker: BrokerProcess) -> None:
    payload = b"x" * (64 * 1024 - 512)
    async with broker.client(GATEWAY, ALL_UP) as gateway, broker.client(DEVICE) as device:
        await device.publish(DATA, payload)
        assert await next_payloads(gateway, 1) == [payload]


@story
async def test_admission_and_revocation_take_effect_at_once(broker: BrokerProcess) -> None:
    fresh, topic = user(Role.DEVICE, "1"), str(Up(NET, node("1"), node("1"), "data"))
    async with (
        broker.admin(ADMIN) as admin,
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as bystander,
    ):
        await admin.ensure(fresh)
        async with broker.client(fresh) as client:
            await client.publish(topic, b"admitted")
            assert await next_payloads(gateway, 1) == [b"admitted"]
            await admin.remove(fresh.name)
            await until(lambda: client.counts["refused"] >= 1)
            assert not client.is_up
            with pytest.raises(BrokerUnavailableError):
                await client.publish(topic, b"revoked", deadline_s=0.3)
        await admin.remove(fresh.name)  # repeatable
        await bystander.publish(DATA, b"untouched")
        assert await next_payloads(gateway, 1) == [b"untouched"]
        assert bystander.counts["lost"] == 0


@pytest.mark.parametrize("again", [False, True])
@story
async def test_a_command_does_not_wait_for_an_answer_that_its_connection_took_along(
    broker: BrokerProcess, again: bool
) -> None:
    async with broker.client(ADMIN, *DynamicSecurityAdmin.subscriptions) as client:
        admin = DynamicSecurityAdmin(client, NET, again=again)
        asked = asyncio.create_task(admin.remove(node("3")))
        await client.receive()  # the answer, which `admin` shall not see
        await client.publish(ADMIN_REQUEST, b'{"commands": []}')  # acknowledged after the command
        async with RawClient("127.0.0.1", broker.port) as other:
            assert ADMIN.password is not None
            await other.send(connect_bytes(ADMIN.name, ADMIN.name, ADMIN.password))
            await until(lambda: client.counts["lost"] == 1)
        async with running(admin.run()):
            if again:
                await asked
            else:
                with pytest.raises(BrokerUnavailableError, match="lost before the answer"):
                    await asked


@story
async def test_removing_and_adding_replaces_the_password(broker: BrokerProcess) -> None:
    old, new = user(Role.DEVICE, "2"), user(Role.DEVICE, "2")
    async with broker.admin(ADMIN) as admin:
        await admin.ensure(old)
        await admin.remove(old.name)
        await admin.ensure(new)
        async with broker.client(new):
            pass
        async with broker.client(old, ready=False) as client:
            await until(lambda: client.counts["refused"] >= 1)
        await admin.remove(new.name)


@pytest.mark.parametrize("who", [GATEWAY, DEVICE], ids=["gateway", "device"])
@story
async def test_only_the_administrator_changes_users(broker: BrokerProcess, who: User) -> None:
    command = {"command": "deleteClient", "username": OTHER.name}
    async with broker.client(OTHER) as victim, broker.client(who) as client:
        with suppress(BrokerUnavailableError):
            await client.publish(
                ADMIN_REQUEST, json.dumps({"commands": [command]}).encode(), deadline_s=0.3
            )
        await victim.publish(str(Up(NET, OTHER.node, OTHER.node, "data")), b"x")
        assert victim.counts["lost"] == 0


@story
async def test_strangers_connections_are_bounded(kind: str, tmp_path: Path) -> None:
    """Also after many have come and gone without a word, and whoever belongs gets in afterwards."""
    limits = {"connections_max": 2, "connect_deadline_s": 60, "handshakes_max": 64}
    async with started(tmp_path, kind, USERS, limits=limits) as broker:
        for _ in range(40):
            _, writer = await asyncio.open_connection("127.0.0.1", broker.port)
            writer.close()
        held = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(80)]
        await broker.counted("connections-full")
        for _, writer in held:
            writer.close()
        async with broker.client(DEVICE) as device:
            await device.publish(DATA, b"x")


@story
async def test_strangers_that_say_nothing_keep_nobody_out(kind: str, tmp_path: Path) -> None:
    """As many connections as the broker takes, and more, none of which logs in. Who is logged in
    stays."""
    limits = {"connections_max": 100, "handshakes_max": 20}
    async with (
        started(tmp_path, kind, USERS, limits=limits) as broker,
        broker.client(GATEWAY, ALL_UP) as gateway,
    ):
        held = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(200)]
        async with broker.client(DEVICE) as device:
            await device.publish(DATA, b"in")
            assert await next_payloads(gateway, 1) == [b"in"]
            assert gateway.counts["connected"] == device.counts["connected"] == 1
        for _, writer in held:
            writer.close()


@story
async def test_users_survive_kill_9_of_the_broker(kind: str, tmp_path: Path) -> None:
    fresh = user(Role.DEVICE, "1")
    async with started(tmp_path, kind, [GATEWAY, ADMIN, DEVICE]) as broker:
        async with broker.admin(ADMIN) as admin:
            await admin.ensure(fresh)
            await admin.remove(DEVICE.name)
            broker.kill()
        await broker.start()
        async with broker.client(fresh):
            pass
        async with broker.client(DEVICE, ready=False) as client:
            await until(lambda: client.counts["refused"] >= 1)


SENT = 80


@story
async def test_an_outbox_brings_everything_across_a_killed_broker(
    kind: str, tmp_path: Path
) -> None:
    """Each arrives at least once; receivers that drop repeats by digest see exactly those sent."""
    async with started(tmp_path, kind, [GATEWAY, DEVICE]) as broker:
        outbox = Outbox(tmp_path / "outbox.db")
        answers = f"{ROOT}/rsp/{DEVICE.node}/#"
        async with (
            broker.client(GATEWAY, ALL_UP) as gateway,
            broker.client(DEVICE, answers) as device,
        ):
            seen: dict[bytes, int] = {}
            courier = Courier(outbox, device, resend_s=1.0)
            async with (
                running(courier.run()),
                running(_answer(gateway, seen)),
                running(_tick_off(device, courier)),
            ):
                await _send_and_kill(broker, courier, seen)
                await until(lambda: courier.counts["done"] == SENT)
        assert len(outbox) == 0
        assert set(seen) == {digest(number) for number in range(SENT)}


async def _send_and_kill(broker: BrokerProcess, courier: Courier, seen: dict[bytes, int]) -> None:
    for number in range(SENT):
        assert await courier.send(digest(number), DATA, digest(number))
        if number == SENT // 2:
            await until(lambda: len(seen) > SENT // 10)
            broker.kill()
        if number == SENT * 3 // 4:
            await broker.start()


async def _answer(gateway: MqttClient, seen: dict[bytes, int]) -> None:
    async for message in gateway.messages():
        seen[message.payload] = seen.get(message.payload, 0) + 1
        await gateway.publish(str(Response(NET, DEVICE.node, "data")), message.payload)


async def _tick_off(device: MqttClient, courier: Courier) -> None:
    async for message in device.messages():
        await courier.done(message.payload)


def digest(number: int) -> bytes:
    return number.to_bytes(32)
