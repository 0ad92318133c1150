"""How a request passes the gateway: on disk, to the replicas, final, answered; its limits."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from chain.block import Head
from chain.errors import PeerFault
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import (
    Grant,
    Token,
)
from chain.ledger.possession import voucher_statement
from chain.pbft.messages import Denied
from chain.proofs.proof import ProofVerifier, decode_proof
from gateway.bridge.edge import (
    Stamped,
    admitted_codec,
    stamped_codec,
)
from gateway.broker.credentials import open_password
from gateway.broker.security import device_password
from gateway.hops import Hop, Trace
from gateway.limits import RateLimiter
from gateway.mqtt.topics import Up
from nodes.edge_config import GatewayLimits
from tests.chain.world import Device, World, private_key, signer
from tests.gateway.bridge.gate import RELAY, SECRET, Clock, Gate, limiter


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


class Hops(Trace):
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
    assert gate.bridge.follower.lagging
    gate.deny("refused", 1, 2)
    assert gate.bridge.waiting == 1
    gate.seal()
    assert gate.refusals() == []
    assert gate.answers[-1][:2] == (device.node.hex(), "receipt")


def test_a_gateway_is_current_when_enough_replicas_have_stated_a_height_since_a_doubt(
    gate: Gate,
) -> None:
    chain = gate.bridge.follower
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


def test_a_refusal_that_overtakes_the_block_is_not_passed_on(gate: Gate) -> None:
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


# --- ledger copies --------------------------------------------------------------------------------


@pytest.mark.parametrize("bodies", [True, False])
def test_a_device_verifies_its_copy_over_a_change_of_replicas(gate: Gate, bodies: bool) -> None:
    device = gate.admit("phone")
    gate.world.add_replica(4)
    gate.world.idle(20)
    gate.seal()
    copy = gate.copy(device, bodies=bodies)
    assert copy.height == gate.bridge.follower.height == len(gate.world.blocks)
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
    conflicts = [fields for event, fields in gate.events if event == "conflict"]
    assert gate.bridge.counts["conflict"] >= 200
    assert 1 <= len(conflicts) <= 10
