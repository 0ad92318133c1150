"""The gateway's work: nothing accepted is lost, nobody's answer reaches another, and what can come
to nothing is refused before a replica hears of it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chain.block import Head
from chain.errors import PeerFault
from chain.keys import Es256Signer, digest
from chain.ledger.admission import voucher_id
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import (
    AddFactoryRoot,
    Factory,
    Grant,
    Renew,
    Revoke,
    Token,
    WithdrawFactoryRoot,
)
from chain.ledger.possession import renewal_statement, voucher_statement
from chain.pbft.messages import Denied, Endorsement, Signed, encode, signed_bytes
from chain.proofs.denial import check_verdicts, ended_by
from chain.proofs.proof import ProofVerifier, decode_proof
from gateway.bridge.answers import Answer, AnswerCache
from gateway.bridge.edge import (
    Stamped,
    SyncRequest,
    admitted_codec,
    denied_codec,
    stamped_codec,
    sync_codec,
)
from gateway.bridge.relays import ONLINE
from gateway.bridge.stamps import PATIENCE_MS
from gateway.bridge.waiting import DENIAL_PATIENCE_MS
from gateway.broker.credentials import open_password
from gateway.broker.security import bootstrap_id, device_password
from gateway.hops import Hop, NoTrace
from gateway.limits import RateLimiter
from gateway.mqtt.client import payload_bytes_max
from gateway.mqtt.topics import Status, Up
from nodes.edge_config import GatewayLimits
from tests.chain.registry_support import by_admins, certificate
from tests.chain.world import Device, World, private_key, signer
from tests.gateway.bridge.gate import RELAY, SECRET, Clock, Gate, limiter, sender


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def gate(tmp_path: Path, world: World) -> Gate:
    return Gate(tmp_path, world)


def test_an_admitted_device_gets_a_proof_and_a_login_that_only_its_key_opens(gate: Gate) -> None:
    device = gate.admit("phone")
    ((to, kind, payload),) = gate.answers
    assert kind == "admitted"
    assert to != device.node.hex()  # it is still logged in with its voucher
    answer = admitted_codec.decode(payload)
    statement = ProofVerifier(gate.world.genesis).verify(decode_proof(answer.receipt))
    assert (statement.op, statement.status, statement.node) == ("enrol", "ok", device.node)
    password = open_password(answer.sealed_password, private_key("phone"))
    assert password == device_password(SECRET, device.node.hex()) == gate.logins[device.node.hex()]
    with pytest.raises(PeerFault):
        open_password(answer.sealed_password, private_key("somebody else"))


def test_data_is_final_once_and_answered_again_whenever_it_is_asked(gate: Gate) -> None:
    device = gate.admit("phone")
    cose = gate.ask(gate.world.data(device), device)
    gate.up(device.node.hex(), "op", cose)
    assert len(gate.submitted) == 1
    (statement,) = gate.decide()
    gate.up(device.node.hex(), "op", cose)
    assert not gate.submitted
    receipts = [payload for _, kind, payload in gate.answers if kind == "receipt"]
    assert len(receipts) == 2
    assert receipts[0] == receipts[1]
    verified = ProofVerifier(gate.world.genesis).verify(decode_proof(receipts[0]))
    assert verified == statement
    assert gate.outcomes()[1:] == ["accepted", "repeat-waiting", "repeat-final"]


def test_no_replica_hears_of_a_request_before_it_is_on_disk(gate: Gate) -> None:
    device = gate.admit("phone")
    cose = sign_operation(gate.world.data(device), device.signer)
    stamped = stamped_codec.encode(Stamped(n=9, boot=1, at_ms=0, body=cose))
    topic = f"m2m/1/{gate.bridge.net}/up/{RELAY}/{device.node.hex()}/op"
    gate.bridge.on_up(topic, stamped, 0)
    assert not gate.submitted
    writes = gate.bridge.take_writes()
    assert writes is not None
    gate.outbox.exchange(writes.fresh, writes.done)
    assert not gate.submitted
    gate.bridge.written(writes)
    assert [each for each, _ in gate.submitted] == [cose]


class Hops(NoTrace):
    on = True

    def __init__(self) -> None:
        self.noted: list[tuple[Hop, bytes]] = []

    def request(
        self, hop: Hop, request: bytes, at_ns: int = 0, view: int = 0, epoch: int = 0
    ) -> None:
        self.noted.append((hop, request))


def test_the_trace_has_each_hop_of_what_is_accepted_and_none_of_what_is_refused(
    gate: Gate,
) -> None:
    hops = gate.trace = Hops()
    gate.restart()
    device = gate.admit("phone")
    assert [hop for hop, _ in hops.noted] == [
        Hop.GATEWAY_IN,
        Hop.ADMITTED,
        Hop.DURABLE,
        Hop.GATEWAY_OUT,
        Hop.RECEIPT,
    ]
    assert len({request for _, request in hops.noted}) == 1
    gate.up(device.node.hex(), "op", b"no operation")
    gate.up(device.node.hex(), "sync", b"no request")
    assert len(hops.noted) == 5


def test_killed_at_any_point_the_gateway_carries_on_what_it_accepted(gate: Gate) -> None:
    device = gate.admit("phone")
    cose = gate.ask(gate.world.data(device), device)
    gate.restart()
    assert not gate.submitted
    gate.clock.s = 10
    gate.bridge.tick(gate.now_ms)
    assert gate.submitted == [(cose, True)]
    (statement,) = gate.decide()
    assert statement.status == "ok"
    assert gate.answers[-1][:2] == (device.node.hex(), "receipt")
    assert len(gate.outbox) == 0
    gate.restart()
    assert gate.bridge.waiting == 0


def test_an_executed_request_is_not_denied_by_a_gateway_that_has_yet_to_see_the_block(
    gate: Gate,
) -> None:
    """After a restart replicas refuse again what they have long executed."""
    device = gate.admit("phone")
    gate.ask(gate.world.data(device), device)
    submitted = list(gate.submitted)
    gate.decide_unseen()
    gate.submitted += submitted
    newest = gate.world.blocks[-1]
    for replica in (1, 2):
        gate.bridge.on_seal(gate.world.seal(replica, newest, with_body=False))
    assert gate.bridge.chain.lagging
    gate.deny("refused", 1, 2)
    assert gate.bridge.waiting == 1
    gate.seal()
    assert gate.refusals() == []
    assert gate.answers[-1][:2] == (device.node.hex(), "receipt")


def test_a_gateway_is_current_when_enough_replicas_have_stated_a_height_since_a_doubt(
    gate: Gate,
) -> None:
    chain = gate.bridge.chain
    assert not chain.is_current
    gate.world.idle(1)
    gate.seal()
    assert chain.is_current
    chain.doubt()
    assert not chain.is_current
    gate.world.idle(1)
    newest = gate.world.blocks[-1]
    gate.bridge.on_seal(gate.world.seal(1, newest))
    assert not chain.is_current, "one replica may lie"
    gate.seal()
    assert chain.is_current
    gate.world.idle(2)
    for replica in (1, 2):
        gate.bridge.on_seal(gate.world.seal(replica, gate.world.blocks[-1], with_body=False))
    assert not chain.is_current, "they are ahead"


def test_a_refusal_that_overtakes_the_block_is_not_told(gate: Gate) -> None:
    """Two gateways carry a request; the second hears "replay" before it hears of the block."""
    device = Device("phone")
    gate.ask(gate.world.enrol(device), device)
    request = gate.request_of(gate.submitted[0])
    gate.decide_unseen()
    for replica in (0, 1, 2, 3):
        gate.bridge.on_denied(replica, Denied(request.id, "replay", None))
    gate.bridge.tick(gate.now_ms)
    gate.seal()
    gate.clock.s += 10
    gate.bridge.tick(gate.now_ms)
    assert gate.refusals() == []
    assert gate.answers[-1][1] == "admitted"


def test_a_full_disk_refuses_and_keeps_nothing(gate: Gate) -> None:
    device = gate.admit("phone")
    cose = sign_operation(gate.world.data(device), device.signer)
    stamped = stamped_codec.encode(Stamped(n=9, boot=1, at_ms=0, body=cose))
    gate.bridge.on_up(f"m2m/1/{gate.bridge.net}/up/{RELAY}/{device.node.hex()}/op", stamped, 0)
    writes = gate.bridge.take_writes()
    assert writes is not None
    gate.bridge.written(writes, full=True)
    assert gate.refusals() == ["outbox-full"]
    assert (gate.bridge.waiting, gate.submitted) == (0, [])
    gate.up(device.node.hex(), "op", cose)
    assert len(gate.submitted) == 1


def test_denials_of_f_replicas_count_for_nothing(gate: Gate) -> None:
    device = Device("phone")
    gate.ask(gate.world.enrol(device), device)
    gate.deny("used-voucher", 3)
    assert gate.refusals() == []
    assert gate.submitted[-1][1]  # now everybody is asked
    gate.deny("used-voucher", 3)
    assert gate.refusals() == []
    gate.deny("used-voucher", 2)
    assert gate.refusals() == ["used-voucher"]
    assert len(gate.outbox) == 0


def test_a_liar_invents_no_reasons(gate: Gate) -> None:
    """Each reason has its count, which would grow without end; and no device knows the word."""
    for number in range(20):
        device = Device(f"phone {number}")
        gate.ask(gate.world.enrol(device, with_voucher=gate.world.vouchers[0]), device)
        with contextlib.suppress(PeerFault):
            gate.deny(f"a made up reason {number}", 1)
        gate.deny("privilege", 2)  # the word of one honest replica and that of a liar: a tie
        gate.deny("privilege", 3)
    assert gate.bridge.counts["denied:privilege"] == 20
    assert not [each for each in gate.bridge.counts if "made up" in each]


def test_a_silent_primary_is_passed_by_and_the_next_request_does_not_wait(gate: Gate) -> None:
    one, two = gate.admit("one"), gate.admit("two")
    gate.ask(gate.world.data(one), one)
    assert gate.submitted == [(gate.submitted[0][0], False)]
    for gate.clock.s, sent in ((0.9, 1), (1.1, 2), (1.2, 2), (3.2, 3), (4.0, 3), (7.3, 4)):
        gate.bridge.tick(gate.now_ms)
        assert len(gate.submitted) == sent, f"at {gate.clock.s} s: ever more rarely"
    gate.ask(gate.world.data(two), two)
    assert gate.submitted[-1][1]
    gate.decide()
    gate.ask(gate.world.data(one), one)
    assert not gate.submitted[-1][1]  # it works again


def test_one_device_or_relay_does_not_take_all_the_room(tmp_path: Path, world: World) -> None:
    gate = Gate(tmp_path, world, device_waiting_max=2, relay_waiting_max=3)
    one, two, three = (gate.admit(name) for name in ("one", "two", "three"))
    for _ in range(3):
        gate.ask(world.data(one), one)
    assert gate.refusals() == ["busy"]
    for _ in range(2):
        gate.ask(world.data(two), two)
    assert gate.refusals() == ["busy", "busy"]
    gate.up(three.node.hex(), "op", sign_operation(world.data(three), three.signer), "d" * 64)
    assert len(gate.submitted) == 4


def test_a_relay_that_speaks_for_others_spends_its_own_rate_only(
    tmp_path: Path, world: World
) -> None:
    gate = Gate(tmp_path, world)
    gate.limits["relays"] = limiter(gate.clock, 10, 10)
    gate.restart()
    victim = gate.admit("victim")
    for _ in range(20):
        gate.up(victim.node.hex(), "op", b"garbage", relay="b" * 64)
    assert gate.bridge.counts["refused:rate"] == 10
    limited = [fields for name, fields in gate.events if name == "rate-limited"]
    assert limited == [{"relay": "b" * 64, "count": 1}]  # a flood does not flood the log
    gate.ask(world.data(victim), victim)
    assert len(gate.submitted) == 1


def test_few_that_flood_shut_nobody_out(gate: Gate) -> None:
    """The limit on the total must not become a way to use it up: neither by logins of their own
    nor by relays that carry garbage."""
    limits, clock = GatewayLimits(), gate.clock
    gate.restart_with(
        relays=fair(clock, limits, limits.relay_rate_per_s, limits.relay_burst),
        devices=fair(clock, limits, limits.rate_per_s, limits.burst),
    )
    honest = gate.admit("phone")
    garbage = stamped_codec.encode(Stamped(n=1, boot=1, at_ms=0, body=b"garbage"))
    floods = [
        str(Up(gate.bridge.net, f"{carrier:064x}", f"{device:064x}", "op"))
        for carrier, device in ((1, 1), (2, 2), (3, 3), (4, 5), (6, 7), (8, 9))
    ]
    for _ in range(250):
        clock.s += 0.02
        for topic in floods:
            for _ in range(40):
                gate.bridge.on_up(topic, garbage, gate.now_ms)
        refused = gate.bridge.counts["refused:rate"]
        gate.up(honest.node.hex(), "op", b"a request")
        assert gate.bridge.counts["refused:rate"] == refused
    assert gate.bridge.counts["refused:rate"] > 10_000


def fair(clock: Clock, limits: GatewayLimits, rate_per_s: float, burst: float) -> RateLimiter:
    return RateLimiter(
        rate_per_s=rate_per_s,
        burst=burst,
        total_rate_per_s=limits.total_rate_per_s,
        total_burst=limits.total_burst,
        sources_max=limits.sources_max,
        clock=clock,
    )


def test_two_relays_do_not_fill_the_room_for_requests(tmp_path: Path, world: World) -> None:
    """Anybody can make keys, and replicas are asked about each newcomer."""
    gate = Gate(tmp_path, world)
    honest = gate.admit("phone")
    stranger = msgspec.structs.replace(world.enrol(Device("nobody")), service="unheard of")
    for number in range(2 * gate.limits["waiting_max"]):
        newcomer = Device(f"made up {number}")
        asked = msgspec.structs.replace(stranger, key=newcomer.signer.public)
        voucher = signer("voucher nobody issued")
        statement = voucher_statement(world.network, newcomer.signer.public, asked.head)
        token = Token(key=voucher.public, signature=voucher.sign(statement))
        cose = sign_operation(msgspec.structs.replace(asked, voucher=token), newcomer.signer)
        gate.up(newcomer.node.hex(), "enrol", cose, relay=("1" if number % 2 else "2") * 64)
    gate.submitted.clear()
    gate.ask(world.data(honest), honest)
    assert len(gate.submitted) == 1, "an admitted device still finds room"


# --- who gets the answer -------------------------------------------------------------------------


def test_an_overheard_access_request_brings_an_attacker_nothing(gate: Gate) -> None:
    """Neither the victim's login nor a new password for it, before admission or after."""
    device = Device("phone")
    operation = gate.world.enrol(device)
    cose = sign_operation(operation, device.signer)
    gate.up("a" * 64, "enrol", cose, relay="a" * 64)
    assert not gate.submitted
    gate.up(sender(operation), "enrol", cose)
    gate.decide()
    before = dict(gate.logins)
    gate.up("a" * 64, "enrol", cose, relay="a" * 64)
    assert gate.bridge.counts["refused:wrong-node"] == 2
    assert {to for to, _, _ in gate.answers} == {sender(operation)}
    gate.up(sender(operation), "enrol", cose)
    assert gate.logins == before  # asked again: the same password


def test_the_vouchers_login_ends_when_the_device_has_spoken_for_itself(gate: Gate) -> None:
    device = Device("phone")
    operation = gate.world.enrol(device)
    gate.ask(operation, device)
    gate.decide()
    assert gate.changes[-1].name == device.node.hex()
    assert [each.name for each in gate.changes if each.user is None] == []
    gate.ask(gate.world.data(device), device)
    gate.decide()
    assert [each.name for each in gate.changes if each.user is None] == [sender(operation)]


def test_who_is_revoked_is_thrown_out_and_no_replay_lets_him_in_again(gate: Gate) -> None:
    device = Device("phone")
    enrolled = gate.ask(gate.world.enrol(device), device)
    gate.decide()
    node = device.node.hex()
    admin_one, admin_two = gate.world.admins[:2]
    for admin in (admin_one, admin_two):
        revoke = gate.world.signed(Revoke, admin, target=device.node, reason="lost")
        gate.ask(revoke, admin)
        gate.decide()
    assert node not in gate.logins
    gate.up(node, "enrol", enrolled)
    gate.ask(gate.world.data(device), device)
    assert gate.refusals() == ["revoked", "revoked"]
    assert node not in gate.logins
    gate.logins.clear()
    gate.restart()
    assert node not in gate.logins
    gate.restart(logins_done=gate.bridge.chain.height)
    gate.changes.clear()
    gate.restart(logins_done=gate.bridge.chain.height)
    assert gate.changes == []  # the broker has been told all this


def test_a_renewed_key_gets_its_own_login_and_the_old_one_goes_when_it_speaks(gate: Gate) -> None:
    old, new = gate.admit("phone"), Device("phone's next key")
    possession = new.signer.sign(renewal_statement(gate.world.network, old.node, new.signer.public))
    renew = gate.world.signed(
        Renew, old, key=new.signer.public, validity_s=3600, possession=possession
    )
    gate.ask(renew, old)
    gate.decide()
    to, kind, payload = gate.answers[-1]
    assert (to, kind) == (old.node.hex(), "admitted")
    sealed = admitted_codec.decode(payload).sealed_password
    assert open_password(sealed, private_key("phone's next key")) == gate.logins[new.node.hex()]
    gate.ask(gate.world.data(old), old)
    assert gate.refusals() == ["renewed"]
    assert old.node.hex() in gate.logins
    gate.ask(gate.world.data(new), new)
    gate.decide()
    assert old.node.hex() not in gate.logins


# --- refused at once ------------------------------------------------------------------------------


def test_what_no_block_can_mend_is_refused_before_a_replica_hears_of_it(gate: Gate) -> None:
    world = gate.world
    device, other = gate.admit("phone"), Device("other")
    used = world.vouchers[0]
    stale = world.enrol(other)
    stranger = Device("stranger")
    for operation, by, reason in (
        (world.enrol(other, with_voucher=used), other, "used-voucher"),
        (world.enrol(other, service="heating"), other, "service"),
        (world.enrol(other, privilege=9), other, "privilege"),
        (msgspec.structs.replace(world.enrol(device)), device, "known-node"),
        (world.data(stranger), stranger, "unknown-node"),
        (msgspec.structs.replace(world.data(device), network=bytes(32)), device, None),
    ):
        gate.ask(operation, by)
        if reason is not None:
            assert gate.refusals()[-1] == reason
    assert gate.bridge.counts["refused:wrong-network"] == 1
    world.idle(17)
    gate.seal()
    gate.ask(stale, other)
    assert gate.refusals()[-1] == "stale-head"
    gate.ask(world.data(device), device)
    gate.decide()
    late = msgspec.structs.replace(world.data(device), counter=1)
    gate.ask(late, device)
    assert gate.refusals()[-1] == "counter"
    world.block(after_us=4000 * 1_000_000)
    gate.seal()
    gate.ask(world.data(device), device)
    assert gate.refusals()[-1] == "expired"
    assert not gate.submitted


def test_what_an_admitted_device_may_not_do_goes_on_record(gate: Gate) -> None:
    device = gate.admit("phone")
    gate.ask(gate.world.data(device, service="valve"), device)
    (statement,) = gate.decide()
    assert statement.status == "refused:service"
    assert gate.answers[-1][1] == "receipt"


def test_an_unknown_voucher_is_refused_unless_we_lag_behind(gate: Gate) -> None:
    """A lagging gateway may not know of a voucher that was added a moment ago."""
    world, device = gate.world, Device("phone")
    unknown = Device("a voucher of nobody").signer
    gate.ask(world.enrol(device, with_voucher=unknown), device)
    assert gate.refusals() == ["unknown-voucher"]
    assert len(gate.submitted) == 1, "only replicas can prove it to the device"
    gate.submitted.clear()
    world.idle(1)
    for replica in (1, 2):
        gate.bridge.on_seal(world.seal(replica, world.blocks[-1], with_body=False))
    gate.ask(world.enrol(device, with_voucher=unknown, nonce=bytes(16)), device)
    assert len(gate.submitted) == 1
    assert gate.refusals() == ["unknown-voucher"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hostile_bytes_are_counted_and_do_nothing_else(gate: Gate, data: st.DataObject) -> None:
    """Whatever is in topic, envelope or body; also one byte changed in what would be accepted."""
    if not gate.world.blocks:
        gate.admit("phone")
    gate.clock.s += 1000
    device = Device("phone")
    device.counter = 1
    good = sign_operation(gate.world.data(device), device.signer)
    at = data.draw(st.integers(0, len(good) - 1))
    bent = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    body = data.draw(st.sampled_from([bent, data.draw(st.binary(max_size=400))]))
    stamped = stamped_codec.encode(Stamped(n=1, boot=1, at_ms=0, body=body))
    payload = data.draw(st.sampled_from([stamped, data.draw(st.binary(max_size=400))]))
    kind = data.draw(st.sampled_from(["op", "enrol", "sync", "carrier", "other"]))
    good_topic = f"m2m/1/{gate.bridge.net}/up/{RELAY}/{device.node.hex()}/{kind}"
    topic = data.draw(st.sampled_from([good_topic, data.draw(st.text(max_size=100))]))
    before = sum(n for name, n in gate.bridge.counts.items() if name.startswith("refused"))
    gate.bridge.on_up(topic, payload, 0)
    after = sum(n for name, n in gate.bridge.counts.items() if name.startswith("refused"))
    assert after == before + 1
    assert gate.bridge.take_writes() is None


@pytest.mark.parametrize(
    "raised",
    [OverflowError("date"), AssertionError(), RecursionError(), UnicodeError(), KeyError(1)],
)
def test_whatever_a_library_raises_on_a_strangers_bytes_is_a_refusal(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """One message must not end every gateway that gets it."""
    device = gate.admit("phone")

    def break_down(*_: object) -> None:
        raise raised

    monkeypatch.setattr("gateway.bridge.logins.verify_carrier", break_down)
    monkeypatch.setattr("gateway.bridge.bridge.open_operation", break_down)
    for kind in ("carrier", "op", "enrol"):
        gate.up(device.node.hex(), kind, b"anything")
    assert gate.bridge.counts["refused:unreadable"] == 3


def test_a_fault_of_this_machine_is_no_refusal(gate: Gate) -> None:
    """A gateway whose disk fails ends loudly, and its device sends the request again."""
    device = gate.admit("phone")
    gate.store.close()
    with pytest.raises(sqlite3.Error):
        gate.ask(gate.world.data(device), device)


def test_a_factory_identity_whose_root_was_withdrawn_gets_nothing(gate: Gate) -> None:
    """Its login stays, because no record names it. It can ask for access, and nothing else."""
    world, key, root_key = gate.world, private_key("idevid"), private_key("factory root")
    root = certificate("Factory", "Factory", root_key, root_key, ca=True)
    leaf = certificate("Sensor 7", "Factory", key, root_key, ca=False)
    added = {"certificate": root, "kinds": ("mobile",), "privilege": 1, "services": ("telemetry",)}
    assert by_admins(world, AddFactoryRoot, **added) == "ok"
    assert by_admins(world, WithdrawFactoryRoot, root=digest(root)) == "ok"
    gate.seal()
    device, head = Device("phone"), world.ledger.head_hash
    proof = Es256Signer(key).sign(voucher_statement(world.network, device.signer.public, head))
    voucher = Factory(chain=(leaf,), signature=proof)
    login = bootstrap_id(voucher_id(voucher))
    gate.ask(world.enrol(device, voucher=voucher), device, device=login)
    assert gate.refusals() == ["factory-chain"]
    assert [each.status for each in gate.decide()] == ["refused:factory-chain"]
    gate.up(login, "sync", sync_codec.encode(SyncRequest(start=1, bodies=True)))
    gate.up(login, "op", sign_operation(world.data(device), device.signer))
    assert gate.outcomes()[-2:] == ["refused:unknown-node", "refused:wrong-node"]
    assert gate.logins == {}


def test_only_admitted_devices_make_a_relay_suspect(gate: Gate) -> None:
    """One login at the broker names any devices, and anybody can make keys."""
    for relay in ("1" * 64, "2" * 64):
        status = str(Status(gate.bridge.net, relay))
        gate.bridge.on_up(status, ONLINE, gate.now_ms)

    def try_again(devices: list[Device]) -> list[str]:
        for device in devices:
            cose = sign_operation(gate.world.data(device), device.signer)
            gate.up(device.node.hex(), "op", cose, tries=1)
            gate.up(device.node.hex(), "sync", device.node, tries=1)
        gate.bridge.tick(gate.now_ms + PATIENCE_MS + 1)
        return [event for event, _ in gate.events if event == "relay-suspected"]

    assert try_again([Device(f"made up {number}") for number in range(64)]) == []
    gate.clock.s += 1
    assert try_again([gate.admit(f"phone {number}") for number in range(8)]) != []


def test_no_relay_makes_another_suspect_with_what_has_come_already(gate: Gate) -> None:
    """It hears all that devices ask, and keeps it: it brings it again and says how often the device
    tried."""
    good, other, bad = "1" * 64, "2" * 64, "3" * 64
    phones = [gate.admit(f"phone {number}") for number in range(8)]

    def present() -> None:
        for relay in (good, other, bad):
            gate.bridge.on_up(str(Status(gate.bridge.net, relay)), ONLINE, gate.now_ms)

    for _ in range(4):
        present()
        sent = [(each, gate.ask(gate.world.data(each), each, relay=other)) for each in phones]
        for settled in (False, True):
            if settled:
                gate.decide()
                gate.clock.s += 1
                present()
            for tries in range(1, 7):
                for phone, cose in sent:
                    gate.up(phone.node.hex(), "op", cose, relay=bad, tries=tries)
        gate.bridge.tick(gate.now_ms + PATIENCE_MS + 1)
    assert not [fields for event, fields in gate.events if event == "relay-suspected"]


def test_a_relay_that_leaves_gaps_without_end_writes_few_events(gate: Gate) -> None:
    device = gate.admit("phone")
    for _ in range(2_000):
        gate.stamped += 1_000
        gate.up(device.node.hex(), "op", b"")
        gate.clock.s += 0.05
        gate.bridge.tick(gate.now_ms)
    gate.clock.s += 2 * PATIENCE_MS / 1000
    gate.bridge.tick(gate.now_ms)
    gaps = [fields["missing"] for event, fields in gate.events if event == "relay-gap"]
    assert len(gaps) <= 102
    assert sum(int(str(missing)) for missing in gaps) == 2_000 * 1_000


def test_a_final_request_that_is_replayed_is_answered_from_memory_or_at_a_low_rate(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the cache each replay costs the decoding and hashing of a block."""
    gate.restart_with(syncs=limiter(gate.clock, rate=8, burst=8))
    device = gate.admit("phone")
    cose = gate.ask(gate.world.data(device), device)
    gate.decide()
    reads = 0
    find = gate.bridge.chain.find

    def counted(request: bytes) -> object:
        nonlocal reads
        reads += 1
        return find(request)

    monkeypatch.setattr(gate.bridge.chain, "find", counted)
    for _ in range(50):
        gate.up(device.node.hex(), "op", cose)
    assert (reads, gate.bridge.counts["repeat-final"]) == (0, 50)
    gate.clock.s += 100
    monkeypatch.setattr(gate.bridge, "_answers", AnswerCache(bytes_max=0))
    for _ in range(50):
        gate.up(device.node.hex(), "op", cose)
    assert (reads, gate.bridge.counts["refused:rate"]) == (8, 42)


def test_a_flood_of_garbage_is_counted_and_writes_few_events(gate: Gate) -> None:
    """Otherwise one relay, at its rate, makes 35 GB of events a day."""
    gate.restart_with(
        relays=limiter(gate.clock, 10_000, 10_000),
        devices=limiter(gate.clock, 10_000, 10_000),
        events=limiter(gate.clock, 1, 20),
    )
    for _ in range(1_000):
        gate.up("c" * 64, "op", b"garbage")
    assert gate.bridge.counts["refused:bad-cose"] == 1_000
    assert len(gate.outcomes()) == 20
    device = gate.admit("phone")
    gate.ask(gate.world.data(device), device)
    assert gate.outcomes().count("accepted") == 2, "what is accepted is always told"


def test_a_refused_message_is_named_by_what_was_sent(gate: Gate) -> None:
    """Whoever judges an attack finds each of its messages: by its id, or by its digest."""
    device = gate.admit("phone")
    altered = sign_operation(gate.world.data(device), device.signer)[:-1] + b"\0"
    gate.up(device.node.hex(), "op", altered)
    gate.bridge.on_up(f"m2m/1/{gate.bridge.net}/up/{RELAY}/{'c' * 64}/op", b"no stamp", 0)
    told = [fields["id"] for event, fields in gate.events if event == "request"]
    assert told[-2:] == [digest(altered).hex(), digest(b"no stamp").hex()]


def test_cached_answers_are_bounded_in_bytes() -> None:
    cache = AnswerCache(bytes_max=10_000)
    for number in range(100):
        cache.put(number.to_bytes(32), Answer(bytes(32), False, bytes(1000), 0))
        assert cache.bytes <= 10_000
        assert cache.get((0).to_bytes(32)) is not None, "used again and again"
    assert cache.get((99).to_bytes(32)) is not None


# --- ledger copies --------------------------------------------------------------------------------


@pytest.mark.parametrize("bodies", [True, False])
def test_a_device_verifies_its_copy_over_a_change_of_replicas(gate: Gate, bodies: bool) -> None:
    device = gate.admit("phone")
    gate.world.add_replica(4)
    gate.world.idle(20)
    gate.seal()
    copy = gate.copy(device, bodies=bodies)
    assert copy.height == gate.bridge.chain.height == len(gate.world.blocks)
    assert copy.membership.epoch == 1


def test_the_ledger_is_for_admitted_devices(gate: Gate) -> None:
    gate.up("c" * 64, "sync", b"\xa2\x65start\x01\x66bodies\xf5")
    assert gate.bridge.counts["refused:unknown-node"] == 1
    assert gate.answers == []


def test_a_change_of_privilege_issues_a_new_certificate_and_keeps_the_login(gate: Gate) -> None:
    device = gate.admit("phone")
    for admin in gate.world.admins[:2]:
        grant = gate.world.signed(
            Grant, admin, target=device.node, privilege=4, services=("telemetry", "valve")
        )
        gate.ask(grant, admin)
        gate.decide()
    gate.ask(gate.world.data(device, service="valve"), device)
    (statement,) = gate.decide()
    assert (statement.status, statement.privilege) == ("ok", 4)
    assert device.node.hex() in gate.logins


def test_a_replica_that_contradicts_itself_for_ever_does_not_fill_the_log(
    gate: Gate, world: World
) -> None:
    gate.restart_with(events=limiter(gate.clock, 1, 5))
    world.idle(1)
    seal = world.seal(3, world.blocks[-1])
    other = msgspec.structs.replace(Head.decode(seal.head), view=7).encode()
    lie = msgspec.structs.replace(
        seal, head=other, signature=world.replicas[3].sign(other), block=None
    )
    for _ in range(200):
        gate.bridge.on_seal(seal)
        gate.bridge.on_seal(lie)
    told = [fields for event, fields in gate.events if event == "conflict"]
    assert gate.bridge.counts["conflict"] >= 200
    assert 1 <= len(told) <= 10


# --- proofs of denials ----------------------------------------------------------------------------


def rejection(gate: Gate, replica: int, by: int) -> Denied:
    """`replica` rejects what was submitted last; `by` is whose key signs."""
    request = gate.request_of(gate.submitted[-1]).id
    verdict = Endorsement(0, replica, request=request, accepted=False, reason="privilege")
    body = encode(verdict)
    signature = gate.world.replicas[by].sign(signed_bytes(gate.world.network, body))
    return Denied(request, "privilege", Signed(body, signature))


def test_a_denial_takes_the_replicas_signed_verdicts_along(gate: Gate) -> None:
    device = Device("phone")
    cose = gate.ask(gate.world.enrol(device), device)
    request = gate.request_of((cose, True)).id
    for replica in (1, 3):
        gate.bridge.on_denied(replica, rejection(gate, replica, replica))
    gate.bridge.tick(gate.now_ms)
    gate.clock.s += DENIAL_PATIENCE_MS / 1000
    gate.bridge.tick(gate.now_ms)
    (answer,) = (denied_codec.decode(p) for _, kind, p in gate.answers if kind == "denied")
    members, scheme = gate.world.genesis.membership, gate.world.scheme
    check_verdicts(
        answer.verdicts or (), request, members, gate.world.network, scheme, reason="privilege"
    )


def test_one_replicas_verdict_makes_no_answer_too_large_to_publish(gate: Gate) -> None:
    """No signature covers what is attached to a verdict. An answer that exceeds a packet is our own
    error: it would end the gateway."""
    device = Device("phone")
    gate.ask(gate.world.enrol(device), device)
    lie = rejection(gate, 1, 1)
    assert lie.endorsement is not None
    fat = msgspec.structs.replace(lie.endorsement, attachment=bytes(payload_bytes_max))
    with contextlib.suppress(PeerFault):
        gate.bridge.on_denied(1, msgspec.structs.replace(lie, endorsement=fat))
    for replica in (2, 3):
        gate.bridge.on_denied(replica, rejection(gate, replica, replica))
    gate.bridge.tick(gate.now_ms)
    gate.clock.s += DENIAL_PATIENCE_MS / 1000
    gate.bridge.tick(gate.now_ms)
    answers = [payload for _, kind, payload in gate.answers if kind == "denied"]
    assert answers
    assert max(map(len, answers)) <= payload_bytes_max


def test_a_rejection_in_another_replica_s_name_counts_for_nobody(gate: Gate) -> None:
    device = Device("phone")
    gate.ask(gate.world.enrol(device), device)
    gate.bridge.on_denied(1, rejection(gate, 1, 1))
    with pytest.raises(PeerFault, match="bad-denial"):
        gate.bridge.on_denied(2, rejection(gate, 3, 2))
    gate.bridge.tick(gate.now_ms)
    gate.clock.s += DENIAL_PATIENCE_MS / 1000
    gate.bridge.tick(gate.now_ms)
    assert gate.refusals() == []


def test_a_revoked_device_is_shown_the_record_of_its_revocation(gate: Gate) -> None:
    device, world = gate.admit("phone"), gate.world
    for admin in world.admins[:2]:
        world.run(world.signed(Revoke, admin, target=device.node, reason="stolen"), admin)
    world.idle(3)
    gate.seal()
    gate.answers.clear()
    gate.ask(world.data(device), device)
    ((_, _, payload),) = gate.answers
    answer = denied_codec.decode(payload)
    proven = ProofVerifier(world.genesis).verify(decode_proof(answer.record or b""))
    assert (answer.reason, ended_by(proven, device.node)) == ("revoked", "revoked")


def test_a_relay_cannot_use_up_what_another_device_may_ask_of_the_ledger(gate: Gate) -> None:
    """A request for blocks is not signed: any relay can make one in a device's name."""
    victim = gate.admit("phone")
    other = "d" * 64
    ask = sync_codec.encode(SyncRequest(start=1, bodies=True))
    gate.restart_with(syncs=limiter(gate.clock, 1, 4))
    for _ in range(20):
        gate.up(victim.node.hex(), "sync", ask, relay=other)
    assert gate.bridge.counts["sync"] == 4
    gate.up(victim.node.hex(), "sync", ask)
    assert gate.bridge.counts["sync"] == 5


def test_the_end_of_a_key_is_looked_up_once_however_often_it_is_used(gate: Gate) -> None:
    """Looking it up costs a whole block: 200 ms if the block is large."""
    keys = [gate.admit("phone"), gate.admit("another phone")]
    for key in keys:
        revoke = gate.world.signed(Revoke, key, target=key.node, reason="lost")
        gate.ask(revoke, key)
        gate.decide()
    syncs = limiter(gate.clock, 1, 1)
    gate.restart_with(syncs=syncs)
    gate.answers.clear()
    for _ in range(5):
        gate.ask(gate.world.data(keys[0]), keys[0])
    gate.ask(gate.world.data(keys[1]), keys[1])
    records = [denied_codec.decode(payload).record for _, _, payload in gate.answers]
    assert [record is not None for record in records] == [True] * 5 + [False]
    assert (syncs.counts["admitted"], syncs.counts["rate"]) == (1, 1)
    gate.clock.s += 1
    gate.ask(gate.world.data(keys[1]), keys[1])
    assert denied_codec.decode(gate.answers[-1][2]).record is not None
