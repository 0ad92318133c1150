"""The embedded broker's door: what is refused before amqtt sees it, counted by its reason."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from amqtt.mqtt.pingreq import PingReqPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

from gateway.broker.door import Door
from gateway.broker.embedded import EmbeddedBroker, filters_max, waiting_messages_high
from gateway.broker.port import DoorLimits
from gateway.broker.security import User, write_security
from gateway.broker.store import SecurityFileError, SecurityStore
from gateway.mqtt.client import MqttClient, MqttSettings
from gateway.mqtt.topics import ADMIN_REQUEST, HeadTopic, Response, Role, Status, Up
from tests.gateway.broker.brokers import NET, ROOT, next_payloads, running, story, until, user
from tests.gateway.broker.raw_mqtt import RawClient, connect_bytes, packet, text

GATEWAY, DEVICE, OTHER = user(Role.GATEWAY, "a"), user(Role.DEVICE, "b"), user(Role.DEVICE, "c")
ADMIN = user(Role.ADMIN, "a")
DATA = str(Up(NET, DEVICE.node, DEVICE.node, "data"))
STATUS = str(Status(NET, DEVICE.node))


class Bench(AsyncExitStack):
    """A door with a broker behind it, in this process."""

    def __init__(
        self, folder: Path, now_s: Callable[[], float] = time.monotonic, **limits: float
    ) -> None:
        super().__init__()
        self._now_s = now_s
        self._path = folder / "security.json"
        write_security(self._path, NET, [GATEWAY, ADMIN, DEVICE, OTHER])
        self._limits = DoorLimits(**limits)  # type: ignore[arg-type]

    async def __aenter__(self) -> Bench:
        store = SecurityStore.load(self._path)
        self.broker = EmbeddedBroker(store)
        await self.broker.start()
        self.door = Door(store, self.broker, self._limits, self._now_s)
        self.port = await self.door.open("127.0.0.1", 0)
        return self

    async def __aexit__(self, *what: object) -> None:
        await super().__aexit__(None, None, None)
        await self.door.close()
        await self.broker.shutdown()

    async def raw(self) -> RawClient:
        return await self.enter_async_context(RawClient("127.0.0.1", self.port))

    async def logged_in(self, who: User = DEVICE, **changes: int) -> RawClient:
        client = await self.raw()
        assert who.password
        await client.send(connect_bytes(who.name, who.name, who.password, **changes))  # type: ignore[arg-type]
        assert await client.accepted()
        return client

    async def client(self, who: object, *subscriptions: str) -> MqttClient:
        assert isinstance(who, type(DEVICE))
        settings = MqttSettings("127.0.0.1", self.port, who.name, who.password, subscriptions)
        client = MqttClient(settings)
        await self.enter_async_context(running(client.run()))
        await client.ready(60)
        return client


@story
async def test_silent_connections_are_closed(tmp_path: Path) -> None:
    async with Bench(tmp_path, connect_deadline_s=0.2) as bench:
        silent, slow = await bench.raw(), await bench.raw()
        await slow.send(b"\x10\x7f\x00")
        assert await silent.closed()
        assert await slow.closed()
        assert bench.door.counts["connect-timeout"] == 2


@story
async def test_a_crowd_of_silent_connections_keeps_nobody_out(tmp_path: Path) -> None:
    async with Bench(tmp_path, handshakes_max=5) as bench:
        for _ in range(20):
            await bench.raw()
        await bench.client(DEVICE)
        assert bench.door.counts["handshakes-full"] >= 15


@story
async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with Bench(tmp_path, connections_max=3) as bench:
        crowd = [await bench.raw() for _ in range(3)]
        assert await (await bench.raw()).closed()
        assert bench.door.counts["connections-full"] == 1
        crowd[0].abort()
        await until(lambda: bench.door.counts["connect-aborted"] == 1)
        await bench.logged_in()


@story
async def test_half_a_packet_is_not_waited_for(tmp_path: Path) -> None:
    async with Bench(tmp_path, packet_deadline_s=0.2) as bench:
        client = await bench.logged_in()
        await client.send(packet(0x30, text(DATA) + b"x" * 100)[:50])
        assert await client.closed()
        assert bench.door.counts["too-late"] == 1


@story
async def test_a_client_that_forgets_its_keepalive_is_dropped(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        client = await bench.logged_in(keepalive_s=1)
        assert await client.closed()
        assert bench.door.counts["too-late"] == 1


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (
            packet(0x32, text(f"{ROOT}/up/{OTHER.node}/{OTHER.node}/data") + b"\0\1"),
            "publish-denied",
        ),
        (packet(0x32, text("$SYS/broker") + b"\0\1"), "publish-denied"),
        (packet(0x32, text("#") + b"\0\1"), "publish-denied"),
        (packet(0x32, text("") + b"\0\1"), "publish-denied"),
        (packet(0x33, text(DATA) + b"\0\1kept"), "retain-denied"),
        (packet(0x34, text(DATA) + b"\0\1"), "qos-2"),
        (packet(0x40, b"\0\1" + packet(0x30, text("smuggled"))), "bad-packet"),
        (b"\x30\xff\xff\xff\xff\x01", "bad-packet"),
        (b"\x30\xff\xff\xff\x7f", "oversized"),
        (packet(0x82, b"\0\1" + (text("a") + b"\0") * 17), "too-many-filters"),
        (connect_bytes("again", "again", "x"), "bad-packet"),
    ],
)
@story
async def test_a_refused_packet_ends_its_connection_only(
    tmp_path: Path, sent: bytes, reason: str
) -> None:
    async with Bench(tmp_path) as bench:
        gateway = await bench.client(GATEWAY, f"{ROOT}/up/+/+/+")
        other = await bench.client(OTHER)
        client = await bench.logged_in()
        await client.send(sent)
        assert await client.closed()
        assert bench.door.counts[reason] == 1
        await other.publish(str(Up(NET, OTHER.node, OTHER.node, "data")), b"fine")
        assert await next_payloads(gateway, 1) == [b"fine"]


@pytest.mark.parametrize(
    ("connect", "reason"),
    [
        (connect_bytes(DEVICE.name, DEVICE.name, "wrong"), "bad-login"),
        (connect_bytes("nobody", "nobody", ""), "bad-login"),
        (connect_bytes("other", DEVICE.name, DEVICE.password or ""), "name-mismatch"),
        (connect_bytes("", DEVICE.name, DEVICE.password or ""), "name-mismatch"),
        (connect_bytes(DEVICE.name, DEVICE.name, DEVICE.password or "", level=5), "bad-version"),
        (
            connect_bytes(DEVICE.name, DEVICE.name, DEVICE.password or "", will=(STATUS, b"x")),
            "will-denied",
        ),
        (
            connect_bytes(
                DEVICE.name, DEVICE.name, DEVICE.password or "", will=(DATA, b""), will_retain=True
            ),
            "retain-denied",
        ),
        (
            connect_bytes(
                DEVICE.name,
                DEVICE.name,
                DEVICE.password or "",
                will=(str(HeadTopic(NET)), b"forged"),
            ),
            "will-denied",
        ),
        (b"GET / HTTP/1.1\r\nHost: broker\r\n".ljust(100), "not-connect"),
        (b"\x10\xff\xff\xff\x7f", "oversized"),
        (b"\x10\x00", "bad-packet"),
    ],
)
@story
async def test_a_refused_login_is_counted_by_reason(
    tmp_path: Path, connect: bytes, reason: str
) -> None:
    async with Bench(tmp_path, connect_deadline_s=1.0) as bench:
        client = await bench.raw()
        await client.send(connect)
        assert await client.refused()
        assert bench.door.counts[reason] == 1
        assert bench.door.counts["logins"] == 0


@story
async def test_a_flood_waits_its_turn(tmp_path: Path) -> None:
    """More than the burst at once: all arrive, at the rate, and others are not held up."""
    now_s = 1000.0
    async with Bench(tmp_path, lambda: now_s, publishes_per_s=200.0, publishes_burst=10.0) as bench:
        gateway = await bench.client(GATEWAY, f"{ROOT}/up/+/+/+")
        flood, honest = await bench.client(DEVICE), await bench.client(OTHER)
        flooding = asyncio.gather(*(flood.publish(DATA, b"flood") for _ in range(60)))
        assert await next_payloads(gateway, 10) == [b"flood"] * 10
        await until(lambda: bench.door.counts["slowed"] > 0)
        await honest.publish(str(Up(NET, OTHER.node, OTHER.node, "data")), b"honest")
        assert await next_payloads(gateway, 1) == [b"honest"]
        now_s += 40 / 200
        assert await next_payloads(gateway, 10) == [b"flood"] * 10  # no more than one burst
        assert not flooding.done()
        while not flooding.done():
            now_s += 1 / 200
            await asyncio.sleep(0)
        assert await next_payloads(gateway, 40) == [b"flood"] * 40


@story
async def test_a_client_that_does_not_read_costs_little_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    async with Bench(tmp_path) as bench:
        deaf = await bench.logged_in()
        await deaf.send(packet(0x82, b"\0\1" + text(f"{ROOT}/rsp/{DEVICE.node}/#") + b"\0"))
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        gateway = await bench.client(GATEWAY)
        other = await bench.client(OTHER, f"{ROOT}/rsp/{OTHER.node}/#")
        topic = str(Response(NET, DEVICE.node, "data"))
        for _ in range(400):
            await gateway.publish(topic, b"x" * 60_000)
        assert bench.broker.counts["dropped"] > 0
        await gateway.publish(str(Response(NET, OTHER.node, "data")), b"in time")
        assert await next_payloads(other, 1) == [b"in time"]


@story
async def test_acknowledgements_that_do_not_come_are_counted_and_not_logged_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """amqtt would log a traceback for each message of a client that is too slow."""

    async def too_slow(*_: object, **__: object) -> None:
        raise TimeoutError("Timeout waiting for PUBACK")

    async with Bench(tmp_path) as bench:
        await bench.client(DEVICE, f"{ROOT}/rsp/{DEVICE.node}/#")
        monkeypatch.setattr(BrokerProtocolHandler, "mqtt_publish", too_slow)
        gateway = await bench.client(GATEWAY)
        for _ in range(50):
            await gateway.publish(str(Response(NET, DEVICE.node, "data")), b"x")
        await until(lambda: bench.broker.counts["unacknowledged"] == 50)
        await gateway.publish(str(Response(NET, DEVICE.node, "data")), b"x")
    assert not [each for each in caplog.records if each.exc_info]


@story
async def test_a_burst_for_a_gateway_that_lags_is_not_dropped(tmp_path: Path) -> None:
    """What was acknowledged arrives, however many come in one piece before anybody takes them, and
    however many the gateway already has."""
    few, total = waiting_messages_high, 2000
    packets = [packet(0x32, text(DATA) + (i + 1).to_bytes(2) + b"%d" % i) for i in range(total)]
    async with Bench(tmp_path) as bench:
        gateway, device = await bench.logged_in(GATEWAY), await bench.logged_in()
        await gateway.subscribe(f"{ROOT}/up/+/+/+")
        await device.send(b"".join(packets[:few]))
        await device.reader.readexactly(4 * few)  # their PUBACKs
        session, _ = bench.broker._sessions[GATEWAY.name]
        await until(lambda: session.inflight_out_count == few)
        assert not bench.broker.congested(DEVICE.name)
        await bench.broker.publish(DATA, b"one more")  # it counts before it is distributed
        assert bench.broker.congested(DEVICE.name)
        await device.send(b"".join(packets[few:]))
        await until(lambda: bench.broker.congested(DEVICE.name))
        sent = {b"%d" % i for i in range(total)} | {b"one more"}
        assert set(await gateway.take(total + 1)) == sent
        assert bench.broker.counts["dropped"] == 0


@story
async def test_a_gateway_that_lags_is_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its acknowledgements come behind what it publishes: held up, it could never catch up."""
    async with Bench(tmp_path) as bench:
        gateway, device = await bench.logged_in(GATEWAY), await bench.logged_in()
        await gateway.subscribe(f"{ROOT}/up/+/+/+")
        other = await bench.client(OTHER, f"{ROOT}/rsp/{OTHER.node}/#")
        await device.send(packet(0x32, text(DATA) + b"\0\1reading") * 1000)
        await until(lambda: bench.broker.congested(DEVICE.name))
        await gateway.publish(str(Response(NET, OTHER.node, "data")), b"stored")
        assert await next_payloads(other, 1) == [b"stored"]
        await gateway.take(1000)
        assert "Timeout waiting for PUBACK" not in caplog.text


@story
async def test_who_does_not_read_his_answers_is_not_asked_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each packet that amqtt answers is a task of its own, which waits until the answer is out."""
    answering = answered = most = 0
    answer = BrokerProtocolHandler.handle_pingreq

    async def counted(handler: BrokerProtocolHandler, ping: PingReqPacket) -> None:
        nonlocal answering, answered, most
        answering += 1
        most = max(most, answering)
        await answer(handler, ping)
        answering -= 1
        answered += 1

    monkeypatch.setattr(BrokerProtocolHandler, "handle_pingreq", counted)
    async with Bench(tmp_path) as bench:
        deaf = await bench.logged_in()
        await deaf.send(packet(0x82, b"\0\1" + text(f"{ROOT}/rsp/{DEVICE.node}/#") + b"\0"))
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        gateway = await bench.client(GATEWAY)
        topic = str(Response(NET, DEVICE.node, "data"))
        while not bench.broker.counts["dropped"]:
            await gateway.publish(topic, b"x" * 60_000)
        await deaf.send(b"\xc0\x00" * 2000)
        for _ in range(100):  # time for the broker to take more than it should
            await gateway.publish(topic, b"x")
        deaf.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with running(deaf.reader.read()):
            await until(lambda: answered == 2000)
        assert most < 10


@story
async def test_filters_are_bounded_and_leave_nothing_behind(tmp_path: Path) -> None:
    """A device may ask for any filter below its own answers; every message walks over all."""
    async with Bench(tmp_path) as bench:
        client = await bench.logged_in()
        for number in range(filters_max // 16 + 2):
            names = [f"{ROOT}/rsp/{DEVICE.node}/{number}-{n}" for n in range(16)]
            filters = b"".join(text(name) + b"\0" for name in names)
            await client.send(packet(0x82, b"\0\1" + filters))
            answer = await client.reader.readexactly(20)
            refused = number >= filters_max // 16
            assert answer[4:] == (b"\x80" if refused else b"\0") * 16
        assert len(bench.broker.subscriptions) == filters_max
        again = text(f"{ROOT}/rsp/{DEVICE.node}/0-0")
        await client.send(packet(0x82, b"\0\1" + again + b"\0"))
        assert await client.reader.readexactly(5) == b"\x90\x03\0\1\0", "held already"
        for number in range(filters_max // 16):
            names = [f"{ROOT}/rsp/{DEVICE.node}/{number}-{n}" for n in range(16)]
            await client.send(packet(0xA2, b"\0\1" + b"".join(map(text, names))))
            assert await client.reader.readexactly(4) == b"\xb0\x02\0\1"
        assert not bench.broker.subscriptions
        await client.send(packet(0x82, b"\0\1" + again + b"\0"))
        assert await client.reader.readexactly(5) == b"\x90\x03\0\1\0", "there is room again"
        client.abort()
        await until(lambda: not bench.broker.subscriptions)


@story
async def test_a_removal_overtakes_all_that_waits_at_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker is congested, publishers wait, and the administrator does not."""
    async with Bench(tmp_path) as bench:
        device, admin = await bench.client(DEVICE), await bench.client(ADMIN)
        monkeypatch.setattr(bench.broker, "congested", lambda _: True)
        waiting = asyncio.ensure_future(device.publish(DATA, b"waits", deadline_s=60))
        command = {"command": "deleteClient", "username": OTHER.name}
        await admin.publish(ADMIN_REQUEST, json.dumps({"commands": [command]}).encode())
        assert OTHER.name not in bench.door.store
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@story
async def test_a_change_of_the_users_stops_nobody_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 10,000 logins the document has megabytes, and a sync to an SD card takes its time."""
    release, write = threading.Event(), SecurityStore.write

    def slow(store: SecurityStore, document: bytes) -> None:
        release.wait()
        write(store, document)

    async with Bench(tmp_path) as bench:
        monkeypatch.setattr(SecurityStore, "write", slow)
        gateway = await bench.client(GATEWAY, f"{ROOT}/up/+/+/+")
        device = await bench.client(DEVICE)
        command = {"command": "deleteClient", "username": OTHER.name}
        payload = json.dumps({"commands": [command]}).encode()
        changing = asyncio.ensure_future(bench.door.administer(payload))
        await device.publish(DATA, b"meanwhile")
        assert await next_payloads(gateway, 1) == [b"meanwhile"]
        assert not changing.done(), "it is not answered before it is on disk"
        release.set()
        await changing
    assert OTHER.name not in SecurityStore.load(bench.door.store.path)


@story
async def test_both_ends_switch_nagle_off(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.client(DEVICE)
        ends = [
            each.fd
            for each in psutil.Process().net_connections("tcp")
            if each.raddr and bench.port in (each.laddr.port, each.raddr.port)
        ]
        assert len(ends) == 2
        for descriptor in ends:
            with socket.socket(fileno=os.dup(descriptor)) as end:
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_security_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "security.json"
    write_security(path, NET, [DEVICE])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(SecurityFileError, match="chmod 600"):
        SecurityStore.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"clients": [{}]}', b"\xff"])
def test_a_damaged_security_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "security.json"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(SecurityFileError, match="security"):
        SecurityStore.load(path)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b"null", b'{"commands": 1}', b'{"commands": [1, null, {}]}', b"[" * 9000],
)
@story
async def test_any_administrators_message_is_survived(tmp_path: Path, payload: bytes) -> None:
    async with Bench(tmp_path) as bench:
        await bench.door.administer(payload)
        assert DEVICE.name in bench.door.store
