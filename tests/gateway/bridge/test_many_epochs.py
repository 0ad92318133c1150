"""A network whose replicas changed 200 times still admits devices and answers them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from chain.block import Head
from chain.genesis import Consensus
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import RemoveReplica
from chain.pbft.messages import Denied, Endorsement, Seal, Signed, encode, signed_bytes
from chain.proofs.certificate import carrier_certificate, verify_carrier
from chain.proofs.client import decode_range
from chain.proofs.denial import check_verdicts
from chain.proofs.proof import EPOCHS_MAX, ProofVerifier, decode_proof
from gateway.bridge.edge import ENVELOPE_BYTES, PART_BYTES_MAX, admitted_codec, denied_codec
from tests.chain.world import Device, World, private_key
from tests.gateway.bridge.gate import Gate

CHANGES = 200


def changed(world: World, times: int, first: int = 0) -> None:
    """Replica 4, 5, 6 ... comes, and leaves again: replicas 0 to 3 stay."""
    for change in range(first, first + times):
        if change % 2 == 0:
            world.add_replica(4 + change // 2)
        else:
            gone = 4 + change // 2
            for admin in world.admins[:2]:
                world.run(world.signed(RemoveReplica, admin, replica=gone), admin)
        world.idle(2)
    assert world.ledger.membership.epoch == first + times


class Reader:
    """What a device does with the answers to it: it holds genesis and what it was sent."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.proofs = ProofVerifier(gate.world.genesis)
        self.steps = 0

    def read(self) -> bytes:
        """Learns all membership changes sent; the last answer is a receipt, which holds."""
        for _, kind, payload in self.gate.answers[:-1]:
            assert kind == "epochs"
            assert len(payload) <= PART_BYTES_MAX
            for step in decode_range(payload).epochs or ():
                self.proofs.follow(step)
                self.steps += 1
        _, kind, payload = self.gate.answers[-1]
        assert len(payload) <= PART_BYTES_MAX + ENVELOPE_BYTES
        receipt = admitted_codec.decode(payload).receipt if kind == "admitted" else payload
        assert self.proofs.verify(decode_proof(receipt)).status == "ok"
        self.gate.answers.clear()
        return receipt


def test_after_200_changes_devices_are_admitted_answered_and_copy_the_ledger(
    tmp_path: Path,
) -> None:
    world = World(consensus=Consensus(checkpoint_interval=2, pipeline_window=2))
    changed(world, CHANGES)
    gate = Gate(tmp_path, world)
    gate.seal()

    phone = gate.admit("phone")
    reader = Reader(gate)
    receipt = reader.read()
    assert reader.steps == CHANGES

    cose = sign_operation(world.data(phone), phone.signer)
    gate.up(phone.node.hex(), "op", cose)
    gate.decide()
    reader.read()
    after_admission = reader.steps - CHANGES
    assert after_admission in (0, CHANGES), "its name in topics changed with its admission"

    gate.up(phone.node.hex(), "op", sign_operation(world.data(phone), phone.signer))
    gate.decide()
    reader.read()
    changed_before = reader.steps
    gate.up(phone.node.hex(), "op", sign_operation(world.data(phone), phone.signer))
    gate.decide()
    reader.read()
    assert reader.steps == changed_before, "only what it lacks"

    gate.up(phone.node.hex(), "op", cose)
    reader.read()
    assert reader.steps == changed_before + CHANGES, "a device that asks again may lack any"

    proof = reader.proofs.complete(decode_proof(receipt).record)
    assert len(proof.epochs) == 0, f"more than {EPOCHS_MAX} are left out of a certificate"
    pem = carrier_certificate(private_key("phone"), proof)
    assert verify_carrier(pem, gate.bridge.follower.proofs).node == phone.node
    gate.up(phone.node.hex(), "carrier", pem)
    assert gate.answers[-1][1] == "carrier"

    for bodies in (False, True):
        copy = gate.copy(phone, bodies=bodies)
        assert copy.membership == world.ledger.membership
    heads = gate.copy(Device("phone"), bodies=False)
    assert heads.height == world.ledger.height


def test_a_change_between_two_answers_is_sent_with_the_second(tmp_path: Path) -> None:
    world = World(consensus=Consensus(checkpoint_interval=2, pipeline_window=2))
    gate = Gate(tmp_path, world)
    phone = gate.admit("phone")
    reader = Reader(gate)
    reader.read()
    changed(world, 1)
    gate.seal()
    gate.up(phone.node.hex(), "op", sign_operation(world.data(phone), phone.signer))
    gate.decide()
    reader.read()
    assert reader.steps == 1


def test_a_removed_replica_beside_a_faulty_member_does_not_make_a_gateway_lag(
    tmp_path: Path,
) -> None:
    """Together they are f+1 names, but only one of them counts. A gateway that believes that it
    lags adds no login, denies nothing and sends nothing again."""
    world = World(consensus=Consensus(checkpoint_interval=2, pipeline_window=2))
    gate = Gate(tmp_path, world)
    changed(world, 1)
    gate.seal()
    faulty, removed = 3, 4

    def claim(replica: int) -> None:
        head = msgspec.structs.replace(Head.decode(world.blocks[-1].head), height=2**40)
        gate.bridge.on_seal(Seal(replica, 2**30, head.encode(), bytes(64)))

    claim(removed)  # while it is a member
    for admin in world.admins[:2]:
        world.run(world.signed(RemoveReplica, admin, replica=removed), admin)
    world.idle(2)
    gate.seal()
    assert removed not in world.ledger.membership.ids
    claim(removed)
    claim(faulty)
    assert not gate.bridge.follower.lagging

    phone = gate.admit("phone")
    cose = sign_operation(world.data(phone), phone.signer)
    gate.up(phone.node.hex(), "op", cose)
    gate.deny("refused", faulty, removed)
    assert gate.refusals() == []
    assert gate.bridge.waiting == 1
    claim(2)  # an honest one: now it is true
    assert gate.bridge.follower.lagging


def test_a_newcomer_can_check_a_denial_by_replicas_that_joined_since_genesis(
    tmp_path: Path,
) -> None:
    world = World(consensus=Consensus(checkpoint_interval=2, pipeline_window=2))
    gate = Gate(tmp_path, world)
    changed(world, 1)
    gate.seal()
    gate.ask(world.enrol(phone := Device("phone")), phone)
    request = gate.request_of(gate.submitted[-1]).id
    epoch = world.ledger.membership.epoch
    for replica in (3, 4):
        message = Endorsement(epoch, replica, request=request, accepted=False, reason="privilege")
        body = encode(message)
        signed = Signed(body, world.replicas[replica].sign(signed_bytes(world.network, body)))
        gate.bridge.on_denied(replica, Denied(request, "privilege", signed))
    for _ in range(2):
        gate.bridge.tick(gate.now_ms)
        gate.clock.s += 2
    reader = ProofVerifier(world.genesis)
    for _, kind, payload in gate.answers[:-1]:
        assert kind == "epochs"
        for step in decode_range(payload).epochs or ():
            reader.follow(step)
    _, kind, payload = gate.answers[-1]
    assert kind == "denied"
    denied = denied_codec.decode(payload)
    assert denied.verdicts is not None
    check_verdicts(
        denied.verdicts,
        request,
        reader.membership,
        world.network,
        world.scheme,
        reason="privilege",
    )
