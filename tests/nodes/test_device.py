"""A device against a real broker and the real bridge; on the way to it the test loses things.

The chain is the test's `World`: real ledger, keys and signatures, blocks made at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from chain.block import Head
from chain.genesis import Consensus
from chain.keys import digest
from chain.ledger.envelope import read_operation
from chain.ledger.item import cose_of
from chain.ledger.operations import Data, Operation, Revoke
from chain.ledger.statement import OK, decode_leaf
from chain.pbft.messages import Denied, Endorsement, Signed, encode, signed_bytes
from chain.proofs.client import BlockRange, SealedBlock, encode_range
from chain.proofs.proof import HeadSeal, ProofVerifier, decode_proof
from gateway.bridge.edge import Denial, admitted_codec, denied_codec
from gateway.bridge.outbox import OutboxFullError
from gateway.bridge.pending import DENIAL_DELAY_MS
from gateway.broker.security import User, bootstrap_user
from gateway.mqtt.client import Message, MqttClient
from gateway.mqtt.topics import HeadTopic, Response, Role
from nodes.device.denials import is_proven
from nodes.device.device import Answer, Device, Refused
from nodes.device.environment import RelayUplink
from nodes.device.ledger_sync import LedgerSync
from nodes.device.login import Login
from nodes.device.sender import Reading, Sender
from nodes.device.state import COUNTERS_RESERVED, DeviceState
from nodes.disk import write_atomically
from nodes.edge_config import BrokerAddress, DeviceConfig
from nodes.events import EventLog, read_events
from nodes.exits import Trouble
from testbed.standing.direct_uplink import DirectUplink
from tests.chain.world import World, private_key, signer
from tests.gateway.bridge.gate import Gate
from tests.gateway.bridge.test_many_epochs import changed
from tests.gateway.broker.brokers import BrokerProcess, running, served, story

GATEWAY = User(Role.GATEWAY, "a" * 64, "gateway's password")
ADMIN = User(Role.ADMIN, "a" * 64, "admin's password")


class Rig:
    """`lose(kind)` decides whether an answer is lost on its way; `decide` makes blocks. With
    `lie` the gateway denies each request before it answers it."""

    def __init__(self, folder: Path, broker: BrokerProcess, world: World) -> None:
        self.folder, self.broker, self.world = folder, broker, world
        (folder / "gate").mkdir()
        self.gate = Gate(folder / "gate", world)
        self.uplink = DirectUplink(self.gate.bridge.net)
        self.take: Callable[[Message], None] = self.decide
        self.lose: Callable[[str], bool] = lambda _: False
        self.lie: Denial | None = None  # said of each request before its true answer
        self.heard: list[str] = []
        pem = private_key("voucher 0").private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomically(folder / "voucher.pem", pem, mode=0o600)
        self.voucher = bootstrap_user(digest(signer("voucher 0").public), pem)
        self.config = DeviceConfig(
            name="phone",
            genesis="",
            state=str(folder / "phone"),
            voucher=str(folder / "voucher.pem"),
            broker=BrokerAddress("127.0.0.1", broker.port),
            go="",
            resend_ms=200,
        )
        self.events = EventLog(folder / "events.jsonl", "phone")

    def device(self) -> Device:
        """The device as it starts from what is on its disk."""
        return Device(self.config, self.world.genesis, "mobile", self.uplink, self.events)

    def logged(self, kind: str) -> list[dict[str, object]]:
        self.events.flush()
        return [e.fields for e in read_events(self.folder / "events.jsonl") if e.event == kind]

    async def serve(self, client: MqttClient) -> None:
        """The gateway process, by hand: every message, a block if it comes to one, answers."""
        async with self.broker.admin(ADMIN) as admin:
            await self.announce(client)
            async for message in client.messages():
                self.take(message)
                while self.gate.changes:
                    change = self.gate.changes.pop(0)
                    if change.user is not None:
                        await admin.ensure(change.user)
                while self.gate.answers:
                    device, kind, payload = self.gate.answers.pop(0)
                    self.heard.append(kind)
                    if self.lie is not None and kind in ("admitted", "receipt"):
                        topic = str(Response(self.gate.bridge.net, device, "denied"))
                        await client.publish(topic, self._false(kind, payload, self.lie))
                    if not self.lose(kind):
                        topic = str(Response(self.gate.bridge.net, device, kind))
                        await client.publish(topic, payload)
                await self.announce(client)

    def _false(self, kind: str, payload: bytes, lie: Denial) -> bytes:
        receipt = admitted_codec.decode(payload).receipt if kind == "admitted" else payload
        request = decode_leaf(decode_proof(receipt).record.leaf).request
        return denied_codec.encode(msgspec.structs.replace(lie, id=request))

    def decide(self, message: Message) -> None:
        self.gate.bridge.on_up(message.topic, message.payload, self.gate.now_ms)
        self.gate.persist()
        if self.gate.submitted:
            self.gate.decide()

    async def announce(self, client: MqttClient) -> None:
        topic = str(HeadTopic(self.gate.bridge.net))
        await client.publish(topic, self.gate.bridge.follower.head)

    def recorded(self, op: str) -> list[str]:
        return [
            statement.status
            for block in self.world.blocks
            for statement in (decode_leaf(record.leaf) for record in block.records)
            if statement.op == op
        ]


@asynccontextmanager
async def rigged(folder: Path, **policy: Any) -> AsyncIterator[Rig]:
    world = World(**policy)
    net = world.network.hex()[:16]
    async with served(folder, [GATEWAY, ADMIN], net) as broker:
        rig = Rig(folder, broker, world)
        async with broker.admin(ADMIN) as admin:
            await admin.ensure(rig.voucher)
        async with (
            broker.client(GATEWAY, f"m2m/1/{net}/up/+/+/+") as client,
            running(rig.serve(client)),
        ):
            yield rig


def data(rig: Rig, device: Device) -> Callable[[int], Operation]:
    return lambda counter: Data(
        network=rig.world.network,
        node=device.node,
        counter=counter,
        service="telemetry",
        payload=b"21.5",
    )


@asynccontextmanager
async def admitted(rig: Rig) -> AsyncIterator[tuple[Device, Login]]:
    device = rig.device()
    try:
        if device.state.password is None:
            await device.enrol()
        async with device.logged_in() as login:
            yield device, login
    finally:
        device.close()


@story
async def test_answers_that_are_lost_are_asked_for_again(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        lost = {"admitted": 2, "receipt": 2}

        def lose(kind: str) -> bool:
            lost[kind] = lost.get(kind, 0) - 1
            return lost[kind] >= 0

        rig.lose = lose
        async with admitted(rig) as (device, login):
            assert await ask(rig, device, login) == OK
        assert rig.recorded("enrol") == rig.recorded("data") == ["ok"]
        # More than those when an answer took longer than the device waits before it asks again.
        assert rig.heard.count("admitted") >= 3
        assert rig.heard.count("receipt") >= 3


@story
async def test_killed_before_the_answer_was_dealt_with_it_hears_it_again(tmp_path: Path) -> None:
    """Once on the chain, and dealt with: never lost, never doubled."""
    async with rigged(tmp_path) as rig:
        async with admitted(rig) as (device, login):
            with pytest.raises(KeyError):  # the kill
                async with device.asking(login, data(rig, device)):
                    raise KeyError
        taken: list[Answer] = []
        async with admitted(rig) as (device, login):
            await device.resume(login, lambda _, answer: taken.append(answer))
            async with device.asking(login, data(rig, device)) as answer:
                taken.append(answer)
        assert [getattr(each, "status", each) for each in taken] == [OK, OK]
        assert rig.recorded("data") == [OK, OK]


@story
async def test_killed_after_admission_before_it_knew_its_password(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        first = rig.device()
        first.state.set_password = lambda _: (_ for _ in ()).throw(KeyError)  # type: ignore[method-assign, assignment]
        with pytest.raises(KeyError):
            await first.enrol()
        first.close()
        async with admitted(rig) as (device, login):
            assert await ask(rig, device, login) == OK
        assert rig.recorded("enrol") == [OK]


@story
async def test_a_busy_gateway_is_asked_until_it_has_room(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, admitted(rig) as (device, login):
        rig.gate.restart_with(waiting_max=0)
        asking = asyncio.ensure_future(ask(rig, device, login))
        while not rig.logged("not-yet"):
            await asyncio.sleep(0.02)
        rig.gate.restart_with(waiting_max=10)
        assert await asking == OK


async def ask(rig: Rig, device: Device, login: Login) -> str:
    async with device.asking(login, data(rig, device)) as answer:
        return answer.reason if isinstance(answer, Refused) else answer.status


@story
async def test_a_wrong_voucher_ends_in_a_refusal(tmp_path: Path) -> None:
    async with rigged(tmp_path, vouchers=0) as rig:
        device = rig.device()
        with pytest.raises(Refused, match="unknown-voucher"):
            await device.enrol()
        device.close()


@story
@pytest.mark.parametrize("layer", ["gateway", "group"])
async def test_the_word_of_one_gateway_ends_no_device(
    tmp_path: Path, layer: Literal["gateway", "group"]
) -> None:
    """Unsigned, or signed by one replica only; the true answer comes after it and counts."""
    async with rigged(tmp_path) as rig:
        rig.lie = Denial(id=bytes(32), layer=layer, reason="privilege")
        async with admitted(rig) as (device, login):
            for reason in ("revoked", "renewed", "expired", "counter", "refused"):
                rig.lie = Denial(id=bytes(32), layer=layer, reason=reason)
                assert await ask(rig, device, login) == OK
            first = rig.gate.bridge.follower.block(1)
            assert first is not None
            record = rig.gate.bridge.follower.receipt(first, 0)
            rig.lie = Denial(id=bytes(32), layer=layer, reason="revoked", record=record)
            assert await ask(rig, device, login) == OK, "a true record, of something else"
        assert {each["reason"] for each in rig.logged("denied-unproven")} >= {"revoked", "counter"}


@story
@pytest.mark.parametrize("reason", ["stale-head", "unknown-head", "known-node"])
async def test_a_lie_about_an_admission_does_not_end_the_device(
    tmp_path: Path, reason: str
) -> None:
    """It is on the chain already. A device that signed again would be refused for good, because its
    key is known."""
    async with rigged(tmp_path) as rig:
        rig.lie = Denial(id=bytes(32), layer="gateway", reason=reason)
        async with admitted(rig) as (device, login):
            assert await ask(rig, device, login) == OK
        assert rig.recorded("enrol") == [OK]


@story
async def test_a_head_that_nobody_signed_does_not_hide_those_after_it(tmp_path: Path) -> None:
    """Nor one of an epoch whose members the device does not know: one gateway of two may lie."""
    async with rigged(tmp_path) as rig:
        device, world = rig.device(), rig.world

        def announce(head: bytes, *seals: HeadSeal) -> None:
            block = SealedBlock(head=head, seals=seals)
            # As its login hands it on: over the broker a gateway's own heads would come in between.
            device._on_head(encode_range(BlockRange(start=1, blocks=(block,))))

        for epoch in (0, 7):
            world.idle(1)
            newest = Head.decode(world.blocks[-1].head)
            announce(msgspec.structs.replace(newest, height=2**62, epoch=epoch).encode())
            assert device.head != world.ledger.head_hash
            announce(msgspec.structs.replace(newest, height=2**61).encode())
            assert device.head != world.ledger.head_hash
            announce(world.blocks[-1].head, *world.seals(world.blocks[-1], 1, 2))
            assert device.head == world.ledger.head_hash
            assert device.announced == world.ledger.height
        device.close()


@story
async def test_a_revoked_device_believes_the_record_of_its_revocation(tmp_path: Path) -> None:
    async with rigged(tmp_path, admins_needed=1) as rig, admitted(rig) as (device, login):
        assert await ask(rig, device, login) == OK
        admin = rig.world.admins[0]
        revoke = rig.world.signed(Revoke, admin, target=device.node, reason="stolen")
        rig.world.run(revoke, admin)
        rig.gate.seal()
        assert await ask(rig, device, login) == "revoked"


@story
async def test_f_plus_1_replicas_are_believed(tmp_path: Path) -> None:
    """What nobody orders is proven by replicas' signed verdicts, through the gateway."""
    async with rigged(tmp_path) as rig:
        world, gate = rig.world, rig.gate

        def take(message: Message) -> None:
            gate.bridge.on_up(message.topic, message.payload, gate.now_ms)
            gate.persist()
            for cose, _ in gate.submitted:
                request = gate.request_of((cose, True)).id
                for replica in (1, 3):
                    gate.bridge.on_denied(replica, rejection(world, replica, request))
            gate.submitted.clear()
            for _ in range(2):
                gate.clock.s += DENIAL_DELAY_MS / 1000
                gate.bridge.tick(gate.now_ms)

        rig.take = take
        device = rig.device()
        with pytest.raises(Refused, match="privilege"):
            await device.enrol()
        device.close()
        rig.take = rig.decide


@story
async def test_one_liar_does_not_choose_why_a_device_is_denied(tmp_path: Path) -> None:
    """An honest replica that is behind rejects for now. With a liar's verdict beside it that would
    be f+1, and the liar's reason would end the device. It goes on asking, and is admitted."""
    async with rigged(tmp_path) as rig:
        world, gate = rig.world, rig.gate
        lies = 0

        def take(message: Message) -> None:
            nonlocal lies
            if lies:
                rig.decide(message)
                return
            gate.bridge.on_up(message.topic, message.payload, gate.now_ms)
            gate.persist()
            for cose, _ in gate.submitted:
                request = gate.request_of((cose, True)).id
                gate.bridge.on_denied(0, rejection(world, 0, request, "privilege"))
                gate.bridge.on_denied(1, rejection(world, 1, request, "unknown-head"))
                lies += 1
            gate.submitted.clear()
            for _ in range(2):
                gate.clock.s += DENIAL_DELAY_MS / 1000
                gate.bridge.tick(gate.now_ms)

        rig.take = take
        device = rig.device()
        assert (await device.enrol()).status == OK
        assert lies
        device.close()
        rig.take = rig.decide


@pytest.mark.parametrize("reason", ["replay", "known-node"])
def test_true_verdicts_that_say_it_is_on_the_chain_end_no_device(reason: str) -> None:
    """Honest replicas sign them when a gateway submits an admission again: "replay" at first, and
    "known-node" when they have forgotten the request."""
    world, node = World(), bytes(32)
    signed = [rejection(world, each, node, reason).endorsement for each in range(4)]
    verdicts = tuple(each for each in signed if each is not None)
    denied = Denial(id=node, layer="group", reason=reason, verdicts=verdicts)
    proofs = ProofVerifier(world.genesis)
    assert not is_proven(denied, proofs, world.network, node)
    other = tuple(each for r in range(2) if (each := rejection(world, r, node).endorsement))
    denied = Denial(id=node, layer="group", reason="privilege", verdicts=other)
    assert is_proven(denied, proofs, world.network, node)


def rejection(world: World, replica: int, request: bytes, reason: str = "privilege") -> Denied:
    verdict = Endorsement(0, replica, request=request, accepted=False, reason=reason)
    body = encode(verdict)
    signature = world.replicas[replica].sign(signed_bytes(world.network, body))
    return Denied(request, reason, Signed(body, signature))


@story
async def test_a_copy_that_was_changed_on_disk_is_fetched_again(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, admitted(rig) as (device, login):
        assert await ask(rig, device, login) == OK
        path = tmp_path / "copy.sqlite"
        sync = LedgerSync(path, device, rig.events, bodies=True)
        assert await sync.run(login, rig.uplink) == 2
        sync.close()
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            (kept,) = database.execute("SELECT data FROM blocks WHERE height = 2").fetchone()
            database.execute("UPDATE blocks SET data = ?", (kept[:-9] + bytes(9),))
        sync = LedgerSync(path, device, rig.events, bodies=True)
        assert (sync.copy.height, len(rig.logged("copy-damaged"))) == (0, 1)
        assert await sync.run(login, rig.uplink) == 2
        sync.close()
        heads = LedgerSync(tmp_path / "heads.sqlite", device, rig.events, bodies=False)
        assert await heads.run(login, rig.uplink) == 2
        assert heads.copy.head == sync.copy.head
        heads.close()


@story
async def test_heads_are_kept_over_a_restart_after_a_membership_change(tmp_path: Path) -> None:
    """Heads do not show the change themselves: its proof is kept beside them."""
    consensus = Consensus(checkpoint_interval=2, pipeline_window=2)
    async with rigged(tmp_path, consensus=consensus) as rig, admitted(rig) as (device, login):
        path = tmp_path / "heads.sqlite"
        for change in range(2):
            changed(rig.gate.world, 1, first=change)
            rig.gate.seal()
            sync = LedgerSync(path, device, rig.events, bodies=False)
            height = await sync.run(login, rig.uplink)
            assert sync.copy.membership.epoch == change + 1
            sync.close()
            again = LedgerSync(path, device, rig.events, bodies=False)
            assert (again.copy.height, again.copy.membership.epoch) == (height, change + 1)
            again.close()
        assert rig.logged("copy-damaged") == []


@story
async def test_blocks_of_a_lying_gateway_are_not_taken(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, admitted(rig) as (device, login):
        sync = LedgerSync(tmp_path / "copy.sqlite", device, rig.events, bodies=True)
        other = World(replicas=5)
        other.idle(3)
        lying = Gate(make(tmp_path / "other"), other)
        lying.seal()
        _, blocks = lying.bridge.follower.range(1, 10**6, bodies=True)
        with pytest.raises(Exception, match=r"wrong-network|bad-link"):
            await sync._take(blocks)  # `run` would ask again until a gateway does not lie
        assert sync.copy.height == 0
        sync.close()
        assert await ask(rig, device, login) == OK


def make(path: Path) -> Path:
    path.mkdir()
    return path


def test_counters_never_repeat_whenever_it_is_killed(tmp_path: Path) -> None:
    seen: set[int] = set()
    for life in range(5):
        state = DeviceState(tmp_path / "state.json")
        counters = [state.next_counter() for _ in range(life * COUNTERS_RESERVED // 2 + 1)]
        assert not seen & set(counters)
        assert counters == sorted(counters)
        seen |= set(counters)
    state.at_least(10**6)
    assert state.next_counter() == 10**6 + 1


def test_a_state_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(b"{")
    with pytest.raises(Trouble, match=r"state\.json"):
        DeviceState(tmp_path / "state.json")


def reading(number: int) -> Reading:
    return Reading(due_ns=time.time_ns(), number=number, values=(number,))


@story
async def test_a_full_backlog_takes_no_reading_and_every_acknowledged_one_reaches_the_chain(
    tmp_path: Path,
) -> None:
    async with rigged(tmp_path) as rig, admitted(rig) as (device, login):
        rig.gate.restart_with(waiting_max=0)  # answers nothing but "not yet"
        backlog = tmp_path / "backlog.sqlite"
        sender = Sender(backlog, device, "telemetry", 60_000, rig.events, readings_max=3)
        sending = asyncio.ensure_future(sender.run(login))
        acknowledged = []
        for number in range(1, 10):
            with contextlib.suppress(OutboxFullError):
                sender.put(reading(number))
                acknowledged.append(number)
        assert acknowledged == [1, 2, 3]
        waiting = asyncio.ensure_future(sender.put_when_possible(reading(10)))
        while not rig.logged("backlog-full"):
            await asyncio.sleep(0.02)
        assert not waiting.done()
        rig.gate.restart_with(waiting_max=10)
        await waiting
        await sender.drained()
        sending.cancel()
        operations = [
            read_operation(cose_of(record.item), rig.world.network).operation
            for block in rig.world.blocks
            for record in block.records
        ]
        numbers = [
            msgspec.json.decode(each.payload, type=Reading).number
            for each in operations
            if isinstance(each, Data)
        ]
        assert numbers == [*acknowledged, 10]
        sender.close()


@story
async def test_what_is_no_message_does_not_flood_the_log(tmp_path: Path) -> None:
    """A relay hears every device's requests: whoever floods it must not fill its disk."""
    world = World()
    config = DeviceConfig(
        name="relay",
        genesis="",
        state=str(tmp_path / "relay"),
        voucher="",
        broker=BrokerAddress("127.0.0.1", 1),
        go="",
    )
    with EventLog(tmp_path / "events", "relay") as events:
        uplink = RelayUplink(world.network.hex()[:16], events)
        device = Device(config, world.genesis, "environment", uplink, events)
        for n in range(1_000):
            message = Message(f"nothing/{n}", b"")
            # No broker delivers these: a device subscribes to what it knows.
            await device._on_message(cast(Login, None), message)
        device.close()
    logged = [each.fields for each in read_events(tmp_path / "events")]
    assert logged[0]["topic"] == "nothing/0"
    assert len(logged) < 20
