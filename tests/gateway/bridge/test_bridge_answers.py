"""Who gets an answer and a login, and what proves a denial."""

from __future__ import annotations

import contextlib

import msgspec
import pytest

from chain.errors import PeerFault
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import (
    Renew,
    Revoke,
)
from chain.ledger.possession import renewal_statement
from chain.pbft.messages import Denied, Endorsement, Signed, encode, signed_bytes
from chain.proofs.denial import check_verdicts, ended_by
from chain.proofs.proof import ProofVerifier, decode_proof
from gateway.bridge.edge import (
    SyncRequest,
    admitted_codec,
    denied_codec,
    sync_codec,
)
from gateway.bridge.pending import DENIAL_DELAY_MS
from gateway.broker.credentials import open_password
from gateway.mqtt.client import payload_bytes_max
from tests.chain.world import Device, private_key
from tests.gateway.bridge.gate import Gate, limiter, sender


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
    gate.restart(logins_done=gate.bridge.follower.height)
    gate.changes.clear()
    gate.restart(logins_done=gate.bridge.follower.height)
    assert gate.changes == []  # the broker knows all this already


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
    gate.clock.s += DENIAL_DELAY_MS / 1000
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
    gate.clock.s += DENIAL_DELAY_MS / 1000
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
    gate.clock.s += DENIAL_DELAY_MS / 1000
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
