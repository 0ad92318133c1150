"""Every entry of the gateway takes any bytes: each message is used or is a counted refusal.

Other entries have such tests in their rooms: the door (`broker/test_door.py`), MQTT packets
(`mqtt/test_packets.py`), serial lines (`serial/test_session.py`) and carriers
(`broker/test_carriers.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import Enrol, Operation
from chain.pbft.messages import Denied, encode
from gateway.bridge.edge import Ask, ask_codec, part_codec
from gateway.bridge.follower import Follower
from gateway.bridge.parts import Assembly
from gateway.bridge.relay import Relay
from gateway.broker.port import DynamicSecurityAdmin
from gateway.mqtt.client import Message
from gateway.mqtt.topics import Request, Status
from nodes.events import EventLog, read_events
from nodes.gateway.replica_links import ReplicaLinks
from tests.chain.world import Device, World
from tests.gateway.bridge.gate import RELAY, Clock, Gate, kind_of, limiter
from tests.nodes.gateway_support import FaultyReplica, lonely_gateway

NET = "0" * 16
CASES = 300


def bent(data: st.DataObject, good: bytes) -> bytes:
    """Valid bytes with a change, or any bytes at all."""
    at = data.draw(st.integers(0, max(0, len(good) - 1)))
    piece = data.draw(st.binary(max_size=4))
    match data.draw(st.sampled_from(["replace", "insert", "cut", "random"])):
        case "replace":
            return good[:at] + piece + good[at + len(piece) :]
        case "insert":
            return good[:at] + piece + good[at:]
        case "cut":
            return good[:at]
    return data.draw(st.binary(max_size=200))


@cache
def world() -> World:
    made = World()
    made.idle(1)
    made.admit("phone")
    return made


any_order = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_order
@given(st.data())
def test_operations_of_every_kind(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Each byte of a signed operation changed in turn, under the right topic."""
    chain = world()
    gate = gate_of(str(tmp_path_factory.getbasetemp()))
    device = Device("phone")
    device.counter = data.draw(st.sampled_from([0, 5]))
    operations: list[Operation] = [chain.data(device), enrolment()]
    operation = data.draw(st.sampled_from(operations))
    body = bent(data, sign_operation(operation, device.signer))
    gate.clock.s += 10
    before = sum(gate.bridge.counts.values())
    gate.up(device.node.hex(), kind_of(operation), body, relay=RELAY)
    assert sum(gate.bridge.counts.values()) == before + 1


@cache
def enrolment() -> Enrol:
    return world().enrol(Device("phone"))


@cache
def gate_of(folder: str) -> Gate:
    path = Path(folder) / "fuzzed"
    path.mkdir()
    gate = Gate(path, world())
    gate.seal()
    return gate


def test_frames_of_replicas(tmp_path: Path) -> None:
    """Seals with bodies, and refusals: whatever a lying replica makes of them."""
    chain = world()
    seal = encode(chain.seal(0, chain.blocks[1]))
    denied = encode(Denied(bytes(32), "used-voucher", None))
    last = Denied(b"\xff" * 32, "used-voucher", None)
    gate = Gate(tmp_path, chain)
    came = asyncio.Event()

    def on_denied(replica: int, message: Denied) -> None:
        if message.request == last.request:
            came.set()
        else:
            gate.bridge.on_denied(replica, message)

    with EventLog(tmp_path / "events", "gateway") as events, asyncio.Runner() as runner:

        async def connect() -> tuple[FaultyReplica, ReplicaLinks, asyncio.Task[None]]:
            replica = FaultyReplica(tmp_path, lonely_gateway(tmp_path))
            follower: Follower = gate.bridge.follower
            links = ReplicaLinks(replica.config, follower, events, gate.bridge.on_seal, on_denied)
            links.start()
            reading = asyncio.create_task(links.run())
            await replica.is_linked.wait()
            return replica, links, reading

        async def deliver(frame: bytes) -> None:
            came.clear()
            replica.send(frame)
            replica.send(encode(last))  # once this one came, the other was read
            arrived = asyncio.create_task(came.wait())
            await asyncio.wait({arrived, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not came.is_set():
                arrived.cancel()
                reading.result()

        replica, links, reading = runner.run(connect())

        @any_order
        @given(st.data())
        def each(data: st.DataObject) -> None:
            runner.run(deliver(bent(data, data.draw(st.sampled_from([seal, denied])))))

        each()
        runner.run(links.close())
        runner.run(replica.close())
    faults = [each for each in read_events(tmp_path / "events") if each.event == "replica-fault"]
    assert faults, "they are counted"


@any_order
@given(st.data())
def test_requests_and_statuses_at_a_relay(data: st.DataObject) -> None:
    relay = Relay(NET, "a" * 64, 1, limiter(Clock(), 1e6, 1e6))
    good = ask_codec.encode(Ask(kind="op", body=b"signed", tries=3))
    topic = data.draw(st.sampled_from([str(Request(NET, "b" * 64)), data.draw(st.text())]))
    with contextlib.suppress(PeerFault):
        relay.on_request(topic, bent(data, good), 0)
    about = data.draw(st.sampled_from([str(Status(NET, "b" * 64)), data.draw(st.text())]))
    with contextlib.suppress(PeerFault):
        relay.on_status(about, bent(data, b"relay"), 0)


@any_order
@given(st.lists(st.tuples(*[st.integers(0, 70)] * 4, st.binary(max_size=3)), max_size=20))
def test_parts_in_any_order_and_of_any_numbers(
    parts: list[tuple[int, int, int, int, bytes]],
) -> None:
    assembly = Assembly()
    for start, stop, part, count, piece in parts:
        fields = {"start": start, "stop": stop, "tip": 0, "part": part, "parts": count}
        with contextlib.suppress(PeerFault):
            assembly.add(part_codec.decode(cbor2.dumps({**fields, "data": piece}, canonical=True)))


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"1", b'{"responses": 1}', b'{"responses": [1, [], null, "x"]}', b"\xff"],
)
def test_answers_of_a_broker(payload: bytes) -> None:
    """The administrator's client survives an answer that is none, and hears the next one."""

    class Client:
        """Brings the odd answer, then the one that is waited for."""

        def __init__(self) -> None:
            self.coming: asyncio.Queue[Message] = asyncio.Queue()

        async def messages(self) -> AsyncIterator[Message]:
            while True:
                yield await self.coming.get()

        async def publish(self, topic: str, body: bytes, **_: object) -> None:
            commands = json.loads(body)["commands"]
            good = [{"correlationData": each["correlationData"]} for each in commands]
            await self.coming.put(Message(topic, payload))
            await self.coming.put(Message(topic, json.dumps({"responses": good}).encode()))

        async def lost(self) -> None:
            await asyncio.Event().wait()

    async def story() -> None:
        client = Client()
        admin = DynamicSecurityAdmin(client, NET)  # type: ignore[arg-type]
        running = asyncio.ensure_future(admin.run())
        await admin.remove("a" * 64)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())
