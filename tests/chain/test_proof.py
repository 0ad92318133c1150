"""Proofs: from the pinned genesis alone, across changes of members, and no altered bit passes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import Misuse, PeerFault
from chain.genesis import Genesis
from chain.proofs.proof import (
    HeadSeal,
    Inclusion,
    Proof,
    ProofVerifier,
    decode_proof,
    encode_proof,
    make_inclusion,
    verify_receipt,
)
from tests.chain.world import Device, World


def crowd() -> World:
    """One block that admits five."""
    world = World()
    devices = [Device(name) for name in "abcde"]
    world.block(*(world.request(world.enrol(each), each) for each in devices))
    return world


WORLD = crowd()
BLOCK = WORLD.blocks[0]


def proof(index: int = 3, replicas: tuple[int, ...] = (0, 2)) -> Proof:
    inclusion = make_inclusion(BLOCK, index, WORLD.seals(BLOCK, *replicas))
    return Proof(record=inclusion, epochs=())


def test_every_record_is_proven_with_the_genesis_and_nothing_else() -> None:
    for index in range(5):
        statement = ProofVerifier(WORLD.genesis).verify(proof(index))
        assert statement.node == Device("abcde"[index]).node
        assert statement.issues_certificate


def test_a_receipt_answers_for_its_own_request() -> None:
    receipt = decode_proof(encode_proof(proof()))
    request = ProofVerifier(WORLD.genesis).verify(receipt).request
    assert verify_receipt(WORLD.genesis, receipt, request).request == request
    with pytest.raises(PeerFault, match="wrong-request"):
        verify_receipt(WORLD.genesis, receipt, bytes(32))


@settings(max_examples=200)
@given(st.data())
def test_no_altered_bit_passes(draw: st.DataObject) -> None:
    data = bytearray(encode_proof(proof()))
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(PeerFault):
        ProofVerifier(WORLD.genesis).verify(decode_proof(bytes(data)))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_proof(data: bytes) -> None:
    with pytest.raises(PeerFault):
        decode_proof(data)


def test_f_signatures_are_not_enough_and_none_may_be_a_stranger_s_or_counted_twice() -> None:
    good = proof().record
    stranger = HeadSeal(9, good.seals[0].signature)
    renamed = HeadSeal(3, good.seals[0].signature)
    for seals in (
        good.seals[:1],
        (good.seals[0], good.seals[0]),
        (good.seals[0], stranger),
        (good.seals[0], renamed),
        good.seals[::-1],
        (*good.seals, renamed),
    ):
        forged = Proof(record=msgspec.structs.replace(good, seals=seals), epochs=())
        with pytest.raises(PeerFault, match="bad-seal"):
            ProofVerifier(WORLD.genesis).verify(forged)


def test_a_proof_says_nothing_in_another_network() -> None:
    other: Genesis = msgspec.structs.replace(WORLD.genesis, name="other")
    with pytest.raises(PeerFault, match="wrong-network"):
        ProofVerifier(other).verify(proof())


def grown() -> tuple[World, Proof]:
    """A record of epoch 2: replica 4 was added, then replica 5."""
    world = World()
    steps: list[Inclusion] = []
    for replica, signers in ((4, (0, 1)), (5, (1, 4))):
        world.add_replica(replica)
        block = world.blocks[-1]
        steps.append(make_inclusion(block, 0, world.seals(block, *signers)))
        world.idle(8)
    world.admit("alice")
    block = world.blocks[-1]
    record = make_inclusion(block, 0, world.seals(block, 4, 5))
    return world, Proof(record=record, epochs=tuple(steps))


def test_a_later_epoch_is_proven_step_by_step_from_genesis() -> None:
    world, whole = grown()
    assert ProofVerifier(world.genesis).verify(whole).status == "ok"
    for epochs in ((), whole.epochs[:1], whole.epochs[1:], whole.epochs[::-1]):
        with pytest.raises(PeerFault):
            ProofVerifier(world.genesis).verify(msgspec.structs.replace(whole, epochs=epochs))
    verifier = ProofVerifier(world.genesis)
    for step in whole.epochs:
        verifier.follow(step)
    assert verifier.verify(msgspec.structs.replace(whole, epochs=())).status == "ok"


def test_only_a_decided_change_is_a_step() -> None:
    world, whole = grown()
    pending = world.blocks[0]  # the first administrator's signature alone
    step = make_inclusion(pending, 0, world.seals(pending, 0, 1))
    for wrong in (step, whole.record):
        with pytest.raises(PeerFault):
            ProofVerifier(world.genesis).follow(wrong)


def test_a_record_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(Misuse):
        make_inclusion(BLOCK, 5, ())
