"""Proofs: from the pinned genesis alone, across changes of members, and no altered bit passes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.block import Block, Head, Record
from chain.errors import Misuse, PeerFault
from chain.genesis import Genesis, Member, Membership
from chain.ledger.statement import Statement, decode_leaf, encode_leaf
from chain.merkle import leaf_hash, root
from chain.proofs import proof as module
from chain.proofs.proof import (
    HeadSeal,
    Inclusion,
    Proof,
    ProofVerifier,
    _is_change,
    decode_proof,
    encode_proof,
    make_inclusion,
)
from chain.quorum import REPLICAS_MAX, REPLICAS_MIN
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
    request = decode_leaf(receipt.record.leaf).request
    assert ProofVerifier(WORLD.genesis).verify(receipt).request == request


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


def test_another_scheme_may_judge_a_receipt() -> None:
    class Refusing:
        def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
            return False

    with pytest.raises(PeerFault, match="bad-seal"):
        ProofVerifier(WORLD.genesis, Refusing()).verify(proof())


def test_a_step_gives_the_members_that_it_leads_to_also_when_it_is_known() -> None:
    world, whole = grown()
    verifier = ProofVerifier(world.genesis)
    for _ in range(2):
        found = [verifier.follow(step) for step in whole.epochs]
        assert [len(each.members) for each in found] == [5, 6]
    assert found[-1] == verifier.membership
    assert verifier.steps == list(whole.epochs)


def test_a_record_is_completed_for_who_holds_the_genesis_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the steps to its own epoch, if they are not too many."""
    world, whole = grown()
    verifier = ProofVerifier(world.genesis)
    for step in whole.epochs:
        verifier.follow(step)
    assert verifier.complete(whole.record) == whole
    assert verifier.complete(whole.epochs[1]).epochs == whole.epochs[:1]
    monkeypatch.setattr(module, "EPOCHS_MAX", 2)
    assert verifier.complete(whole.record) == whole
    monkeypatch.setattr(module, "EPOCHS_MAX", 1)
    assert verifier.complete(whole.record) == msgspec.structs.replace(whole, epochs=())


def lie(world: World, statement: Statement, *replicas: int, **changes: object) -> Inclusion:
    """A statement that these replicas made up, alone in the block with the last head changed."""
    leaf = encode_leaf(statement)
    head = Head.decode(world.blocks[-1].head)
    head = msgspec.structs.replace(head, count=1, root=root([leaf_hash(leaf)]), **changes)
    block = Block(head.encode(), (Record(leaf, b""),))
    return make_inclusion(block, 0, world.seals(block, *replicas))


def test_a_statement_of_another_network_or_time_is_not_of_this_block() -> None:
    statement = decode_leaf(BLOCK.records[0].leaf)
    for changes in ({"network": bytes(32)}, {"time_us": statement.time_us + 1}):
        made_up = lie(WORLD, msgspec.structs.replace(statement, **changes), 0, 1)
        with pytest.raises(PeerFault, match="wrong-network"):
            ProofVerifier(WORLD.genesis).included(made_up)


def test_an_epoch_decides_nothing_at_its_boundary_and_all_above_it() -> None:
    world, whole = grown()
    verifier = ProofVerifier(world.genesis)
    verifier.follow(whole.epochs[0])
    statement = decode_leaf(world.blocks[-1].records[0].leaf)
    for height in (8, 9):
        above = lie(world, statement, 3, 4, height=height, epoch=1)
        if height == 9:
            assert verifier.included(above) == statement
            continue
        with pytest.raises(PeerFault, match="bad-epoch: epoch 1 does not decide 8"):
            verifier.included(above)


def crew(n: int) -> Membership:
    return Membership(0, tuple(Member(each, bytes([each])) for each in range(n)))


ADDED = {"op": "add-replica", "replica": 300, "key": b"key"}
REMOVED = {"op": "remove-replica", "replica": 3, "key": None}


@pytest.mark.parametrize(
    ("changes", "members", "is_one"),
    [
        (ADDED, 4, True),
        (REMOVED, 5, True),
        (ADDED, REPLICAS_MAX - 1, True),
        (REMOVED, REPLICAS_MAX, True),
        (ADDED, REPLICAS_MAX, False),
        (REMOVED, REPLICAS_MIN, False),
        (ADDED | {"replica": 3}, 5, False),  # who is a member is not added
        (REMOVED | {"replica": 7}, 5, False),  # who is none is not removed
        (ADDED | {"key": None}, 5, False),
        (REMOVED | {"key": b"key"}, 5, False),
        (ADDED | {"replica": None}, 5, False),
        (REMOVED | {"op": "revoke"}, 5, False),
    ],
)
def test_what_is_a_change_of_members(
    changes: dict[str, object], members: int, is_one: bool
) -> None:
    statement = msgspec.structs.replace(decode_leaf(BLOCK.records[0].leaf), **changes)
    assert _is_change(statement, crew(members)) == is_one
