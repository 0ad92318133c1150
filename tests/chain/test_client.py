"""The client's rule: f+1 replicas that sign the same head make it final, and nothing less."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.block import Block, Head, Record
from chain.errors import Misuse, PeerFault
from chain.keys import digest
from chain.ledger.envelope import sign_operation
from chain.ledger.item import make_item, open_item
from chain.ledger.ledger import Ledger
from chain.ledger.operations import RemoveReplica
from chain.merkle import EMPTY_ROOT
from chain.pbft.messages import Seal
from chain.proofs import client
from chain.proofs.client import (
    WINDOW_BLOCKS_MAX,
    WINDOW_BYTES_MAX,
    BlockRange,
    Final,
    FinalityTracker,
    LedgerCopy,
    SealedBlock,
    decode_range,
    encode_range,
)
from chain.proofs.proof import HeadSeal, Proof, ProofVerifier, make_inclusion
from tests.chain.test_proof import grown
from tests.chain.world import START_US, Device, World


def lively() -> World:
    """Six blocks with an admission and four readings."""
    world = World()
    alice = world.admit("alice")
    for _ in range(4):
        world.run(world.data(alice), alice)
    world.block()
    return world


WORLD = lively()


def tracker(bytes_max: int = WINDOW_BYTES_MAX) -> FinalityTracker:
    return FinalityTracker(WORLD.genesis.membership, WORLD.genesis, WORLD.scheme, bytes_max)


class Refusing:
    """A scheme that no signature passes."""

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        return False


class Lax:
    """A scheme that every signature passes."""

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        return True


def unsigned() -> World:
    """Its replicas took a reading in block 2 that the device did not sign."""
    world = World()
    alice = world.admit("alice")
    cose = sign_operation(world.data(alice), alice.signer)
    forged = make_item(cose[:-1] + bytes([cose[-1] ^ 1]))
    world.block(open_item(forged, world.network, world.ledger.membership, Lax()))
    return world


def drain(tracker: FinalityTracker) -> list[Final]:
    finals = []
    while (final := tracker.next_final()) is not None:
        finals.append(final)
    return finals


def sealed(world: World, bodies: bool = True, *replicas: int) -> tuple[SealedBlock, ...]:
    """The chain of a world as it is handed to a device."""
    blocks = []
    for block in world.blocks:
        seals = tuple(world.seals(block, *(replicas or (0, 1))))
        records = block.records if bodies else None
        blocks.append(SealedBlock(head=block.head, seals=seals, records=records))
    return tuple(blocks)


# --- finality ------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_blocks_become_final_in_order_however_the_seals_come(order: random.Random) -> None:
    seals = [WORLD.seal(each, block) for block in WORLD.blocks for each in (0, 2, 3)]
    order.shuffle(seals)
    watching, finals = tracker(), []
    for seal in seals:
        assert watching.feed(seal) is None
        finals += drain(watching)
    assert [final.height for final in finals] == [1, 2, 3, 4, 5, 6]
    assert [final.block for final in finals] == WORLD.blocks
    assert watching.head_hash == WORLD.ledger.head_hash


def test_one_replica_is_not_believed() -> None:
    watching = tracker()
    for _ in range(3):
        watching.feed(WORLD.seal(2, WORLD.blocks[0]))
    assert drain(watching) == []
    watching.feed(WORLD.seal(1, WORLD.blocks[0]))
    assert [final.height for final in drain(watching)] == [1]


def test_a_forged_seal_counts_for_nobody_and_blocks_nobody() -> None:
    block = WORLD.blocks[0]
    forged = msgspec.structs.replace(WORLD.seal(1, block), replica=2)
    stranger = msgspec.structs.replace(WORLD.seal(1, block), replica=7)
    watching = tracker()
    for seal in (WORLD.seal(0, block), forged, stranger):
        watching.feed(seal)
    assert drain(watching) == []
    watching.feed(WORLD.seal(2, block))
    [final] = drain(watching)
    assert [seal.replica for seal in final.seals] == [0, 2]


def test_a_final_block_has_f_plus_1_seals_of_its_own_head() -> None:
    block = WORLD.blocks[0]
    watching = tracker()
    watching.feed(WORLD.seal(0, other_block(block)))
    for each in (1, 2, 3):
        watching.feed(WORLD.seal(each, block))
    [final] = drain(watching)
    assert [seal.replica for seal in final.seals] == [1, 2]


@pytest.mark.parametrize("later_us", [-1, 1])  # so that it is looked at first, or last
@pytest.mark.parametrize("changes", [{"parent": bytes(32)}, {"epoch": 1}, {}])
def test_a_head_that_cannot_be_next_is_passed_over(
    changes: dict[str, object], later_us: int
) -> None:
    """It is of another chain or epoch, or nobody brought its body."""
    block = WORLD.blocks[0]
    head = msgspec.structs.replace(Head.decode(block.head), **changes)
    head = msgspec.structs.replace(head, time_us=head.time_us + later_us)
    other = Block(head.encode(), block.records)
    watching = tracker()
    for each in (0, 1):
        watching.feed(WORLD.seal(each, other, with_body=bool(changes)))
    assert drain(watching) == []
    for each in (2, 3):
        watching.feed(WORLD.seal(each, block))
    [final] = drain(watching)
    assert final.block == block


def test_a_block_waits_for_its_body() -> None:
    block = WORLD.blocks[0]
    watching = tracker()
    for each in (0, 1):
        watching.feed(WORLD.seal(each, block, with_body=False))
    assert drain(watching) == []
    watching.feed(WORLD.seal(3, block))
    [final] = drain(watching)
    assert final.block == block


def test_a_body_of_another_head_is_the_replica_s_fault() -> None:
    block = WORLD.blocks[0]
    leaf, item = block.records[0].leaf, block.records[0].item
    for wrong in (
        WORLD.blocks[1],
        Block(block.head, ()),
        Block(block.head, (Record(leaf, item + b"\x00"),)),
    ):
        with pytest.raises(PeerFault, match="bad-body"):
            tracker().feed(msgspec.structs.replace(WORLD.seal(0, block), block=wrong))


def other_block(block: Block) -> Block:
    head = msgspec.structs.replace(Head.decode(block.head), view=7)
    return Block(head.encode(), block.records)


def test_two_heads_signed_by_one_replica_are_evidence() -> None:
    first, second = WORLD.blocks[0], other_block(WORLD.blocks[0])
    watching = tracker()
    assert watching.feed(WORLD.seal(3, first)) is None
    conflict = watching.feed(WORLD.seal(3, second))
    assert conflict is not None
    assert (conflict.replica, conflict.first, conflict.second) == (3, first.head, second.head)
    assert not conflict.against_final


def test_nobody_is_framed_with_a_forged_head() -> None:
    first, second = WORLD.blocks[0], other_block(WORLD.blocks[0])
    forged = msgspec.structs.replace(WORLD.seal(0, second), replica=3)
    watching = tracker()
    watching.feed(WORLD.seal(3, first))
    with pytest.raises(PeerFault, match="bad-seal"):
        watching.feed(forged)
    watching = tracker()
    watching.feed(forged)
    assert watching.feed(WORLD.seal(3, first)) is None, "the true one replaces it"


def test_a_head_against_the_final_one_is_reported_before_and_after() -> None:
    first, second = WORLD.blocks[0], other_block(WORLD.blocks[0])
    watching = tracker()
    for each, block in ((3, second), (0, first), (1, first)):
        watching.feed(WORLD.seal(each, block))
    [final] = drain(watching)
    assert [(one.replica, one.against_final) for one in final.conflicts] == [(3, True)]
    late = watching.feed(WORLD.seal(2, second))
    assert late is not None
    assert (late.replica, late.against_final) == (2, True)
    assert watching.feed(WORLD.seal(2, first)) is None


def test_old_final_heads_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones are kept, to recognise who signs another."""
    monkeypatch.setattr(client, "FINAL_KEPT", 2)
    watching = tracker()
    for block in WORLD.blocks:
        for each in (0, 1):
            watching.feed(WORLD.seal(each, block))
        drain(watching)
    late = [watching.feed(WORLD.seal(2, other_block(block))) for block in WORLD.blocks]
    assert [each is not None for each in late] == [False] * 4 + [True] * 2


def test_a_tracker_resumes_above_what_its_owner_holds() -> None:
    """What it knew before is of no use."""
    watching = tracker()
    for block in WORLD.blocks[:2]:
        for each in (0, 1):
            watching.feed(WORLD.seal(each, block))
    drain(watching)
    watching.feed(WORLD.seal(3, other_block(WORLD.blocks[4])))
    watching.resume(3, WORLD.blocks[2].hash)
    assert (watching.height, watching.head_hash) == (3, WORLD.blocks[2].hash)
    assert waiting_bytes(watching) == 0
    assert watching.feed(WORLD.seal(2, other_block(WORLD.blocks[0]))) is None
    assert watching.feed(WORLD.seal(3, WORLD.blocks[4])) is None
    for block in WORLD.blocks[3:]:
        for each in (0, 1):
            watching.feed(WORLD.seal(each, block))
    assert [final.height for final in drain(watching)] == [4, 5, 6]


def test_another_network_is_refused() -> None:
    other = World(vouchers=1)
    other.block()
    with pytest.raises(PeerFault, match="wrong-network"):
        tracker().feed(other.seal(0, other.blocks[0]))


def test_a_flood_of_far_heads_is_not_kept() -> None:
    watching = tracker()
    far = msgspec.structs.replace(Head.decode(WORLD.blocks[0].head), height=10_000)
    seal = Seal(replica=0, view=0, head=far.encode(), signature=bytes(64))
    assert watching.feed(seal) is None
    assert not watching._seals
    for number in range(300):
        near = msgspec.structs.replace(far, height=2 + number % 3, view=number)
        flood = msgspec.structs.replace(seal, replica=number, head=near.encode())
        watching.feed(flood)
    assert sum(len(each) for each in watching._seals.values()) <= 3 * 2 * 4
    watching = tracker()
    for height in (WINDOW_BLOCKS_MAX, WINDOW_BLOCKS_MAX + 1):
        near = msgspec.structs.replace(far, height=height)
        watching.feed(msgspec.structs.replace(seal, head=near.encode()))
    assert list(watching._seals) == [WINDOW_BLOCKS_MAX]


# What waits to become final is seen from outside by its memory only: these tests look inside.


def waiting_bytes(watching: FinalityTracker) -> int:
    waiting = [body.block for each in watching._bodies_of.values() for body in each.values()]
    return sum(block.body_bytes for block in waiting)


def test_bodies_that_wait_are_bounded() -> None:
    watching = tracker(bytes_max=8000)
    for block in WORLD.blocks[1:]:
        watching.feed(WORLD.seal(0, block))
    assert waiting_bytes(watching) <= 2000, "a quarter, as there are four replicas"
    for each in (0, 1):
        watching.feed(WORLD.seal(each, WORLD.blocks[0]))
    assert drain(watching), "the next block always finds room"
    narrow = tracker(bytes_max=4)
    for block in WORLD.blocks[:2]:
        for each in (0, 1):
            narrow.feed(WORLD.seal(each, block))
    assert [final.height for final in drain(narrow)] == [1]


def test_a_share_of_the_buffer_is_used_to_its_last_byte_and_again_and_again() -> None:
    later = WORLD.blocks[2:4]
    size = sum(block.body_bytes for block in later)
    watching = tracker(bytes_max=4 * size)
    for block in later:
        watching.feed(WORLD.seal(0, block))
        watching.feed(WORLD.seal(1, block, with_body=False))
    assert waiting_bytes(watching) == size
    for block in WORLD.blocks[:2]:
        for each in (2, 3):
            watching.feed(WORLD.seal(each, block))
    assert len(drain(watching)) == 4
    again = [msgspec.structs.replace(Head.decode(block.head), height=7 + n, view=3)
             for n, block in enumerate(later)]  # fmt: skip
    for head, block in zip(again, later, strict=True):
        watching.feed(WORLD.seal(0, Block(head.encode(), block.records)))
    assert waiting_bytes(watching) == size, "what became final has left room"


def test_a_seal_that_waits_holds_no_body() -> None:
    """A body is in the buffer, which is bounded, and nowhere else."""
    watching = tracker()
    first, second = WORLD.blocks[0], other_block(WORLD.blocks[0])
    forged = msgspec.structs.replace(WORLD.seal(0, second), replica=3)
    for seal in (WORLD.seal(0, first), forged, WORLD.seal(3, first)):
        watching.feed(seal)
    waiting = watching._seals[1].values()
    assert [(each.head, each.block) for each in waiting] == [(first.head, None)] * 2


def test_a_liar_that_fills_its_share_of_the_buffer_leaves_the_others_theirs() -> None:
    """Its bodies are well-formed and stand under heads that nobody else signed."""
    size = sum(block.body_bytes for block in WORLD.blocks)
    watching = tracker(bytes_max=4 * size)
    for height in range(2, 250):
        head = msgspec.structs.replace(Head.decode(WORLD.blocks[0].head), height=height, view=9)
        block = Block(head.encode(), WORLD.blocks[0].records)
        watching.feed(Seal(replica=3, view=0, head=block.head, signature=bytes(64), block=block))
    assert waiting_bytes(watching) <= size
    for block in reversed(WORLD.blocks):  # so that all but the last must wait
        watching.feed(WORLD.seal(0, block))
        watching.feed(WORLD.seal(1, block, with_body=False))
    finals = []
    while (final := watching.next_final()) is not None:
        finals.append(final)
    assert [each.source for each in finals] == [0] * len(WORLD.blocks)


def test_a_replica_fills_its_own_place_with_bodies_and_no_other() -> None:
    """Many well-formed bodies under heads that nobody signed: one is kept."""
    watching = tracker()
    for view in range(20):
        head = msgspec.structs.replace(Head.decode(WORLD.blocks[0].head), view=view)
        block = Block(head.encode(), WORLD.blocks[0].records)
        flood = Seal(replica=3, view=0, head=block.head, signature=bytes(64), block=block)
        with contextlib.suppress(PeerFault):
            watching.feed(flood)
        assert len(watching._bodies_of[1]) == 1
    for stranger in range(100):
        head = msgspec.structs.replace(Head.decode(WORLD.blocks[0].head), view=stranger)
        block = Block(head.encode(), WORLD.blocks[0].records)
        with contextlib.suppress(PeerFault):
            watching.feed(Seal(stranger, 0, block.head, bytes(64), block))
    assert len(watching._bodies_of[1]) <= 2 * 4


def test_a_tracker_follows_its_owner_into_the_next_epoch() -> None:
    world, _ = grown()
    copy = LedgerCopy(world.genesis)
    watching = FinalityTracker(world.genesis.membership, world.genesis, world.scheme)
    for block in world.blocks:
        epoch = Head.decode(block.head).epoch
        for each in ((0, 1), (2, 4), (4, 5))[epoch]:
            watching.feed(world.seal(each, block))
    while (final := watching.next_final()) is not None:
        copy.append(SealedBlock.of(final))
        assert copy.ledger is not None
        watching.membership = copy.ledger.membership
    assert copy.height == watching.height == len(world.blocks)


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bodies", [True, False])
def test_a_copy_is_verified_from_genesis_and_resumes(bodies: bool) -> None:
    blocks = sealed(WORLD, bodies)
    copy = LedgerCopy(WORLD.genesis, bodies=bodies)
    assert copy.take(BlockRange(start=1, blocks=blocks[:4])) == 4
    assert copy.take(BlockRange(start=3, blocks=blocks[2:])) == 2, "what is known is skipped"
    assert copy.head_hash == WORLD.ledger.head_hash
    again = LedgerCopy(WORLD.genesis, bodies=bodies)
    if bodies:
        assert again.take(BlockRange(start=1, blocks=blocks)) == 6
        assert again.ledger is not None
        assert again.ledger.registry.identities == WORLD.ledger.registry.identities
        with pytest.raises(Misuse):
            again.resume(WORLD.blocks[3].head)
    else:
        again.resume(WORLD.blocks[3].head)
        assert again.take(BlockRange(start=5, blocks=blocks[4:])) == 2
    assert again.head == copy.head


def test_a_copy_refuses_gaps_forged_heads_and_missing_bodies() -> None:
    blocks = sealed(WORLD)
    forged = msgspec.structs.replace(blocks[0], head=other_block(WORLD.blocks[0]).head)
    one = msgspec.structs.replace(blocks[0], seals=blocks[0].seals[:1])
    bare = msgspec.structs.replace(blocks[0], records=None)
    for start, wrong in ((2, blocks[1]), (1, forged), (1, one), (1, bare)):
        copy = LedgerCopy(WORLD.genesis)
        with pytest.raises(PeerFault):
            copy.take(BlockRange(start=start, blocks=(wrong,)))
        assert copy.height == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"network": bytes(32)},
        {"height": 2},
        {"parent": bytes(32)},
        {"parent_root": bytes(32)},
        {"time_us": START_US},
    ],
)
def test_a_head_must_follow_the_one_before_it_whoever_signed(changes: dict[str, object]) -> None:
    head = msgspec.structs.replace(Head.decode(WORLD.blocks[0].head), **changes)
    block = Block(head.encode(), ())
    wrong = SealedBlock(head=block.head, seals=tuple(WORLD.seals(block, 0, 1)))
    with pytest.raises(PeerFault, match="bad-link"):
        LedgerCopy(WORLD.genesis, bodies=False).append(wrong)


def test_seals_vouch_for_devices_signatures_and_a_ledger_checks_them_if_it_is_asked_to() -> None:
    world = unsigned()
    assert LedgerCopy(world.genesis).take(BlockRange(start=1, blocks=sealed(world))) == 2
    ledger = Ledger(world.genesis, world.scheme)
    ledger.append(world.blocks[0], check_signatures=True)
    with pytest.raises(PeerFault, match="bad-signature"):
        ledger.append(world.blocks[1], check_signatures=True)


def test_a_copy_checks_changes_of_members_by_its_own_scheme() -> None:
    world, proof = grown()
    with pytest.raises(PeerFault, match="bad-seal"):
        LedgerCopy(world.genesis, Refusing(), bodies=False).learn(proof.epochs)
    forged = [msgspec.structs.replace(step, seals=step.seals[::-1]) for step in proof.epochs]
    with pytest.raises(PeerFault, match="bad-seal"):
        LedgerCopy(world.genesis, Lax(), bodies=False).learn(forged)


def test_a_copy_of_heads_follows_proven_changes_of_members() -> None:
    world, proof = grown()
    blocks = []
    for block in world.blocks:
        epoch = Head.decode(block.head).epoch
        seals = tuple(world.seals(block, *((0, 1), (2, 4), (4, 5))[epoch]))
        blocks.append(SealedBlock(head=block.head, seals=seals))
    with pytest.raises(PeerFault, match="bad-epoch"):
        LedgerCopy(world.genesis, bodies=False).take(BlockRange(start=1, blocks=tuple(blocks)))
    copy = LedgerCopy(world.genesis, bodies=False)
    whole = BlockRange(start=1, blocks=tuple(blocks), epochs=proof.epochs)
    assert copy.take(decode_range(encode_range(whole))) == len(blocks)
    assert copy.membership.epoch == 2
    resumed = LedgerCopy(world.genesis, bodies=False)
    resumed.resume(copy.head, proof.epochs)
    assert resumed.membership == copy.membership
    with pytest.raises(PeerFault, match="bad-epoch"):
        LedgerCopy(world.genesis, bodies=False).resume(copy.head)


def test_a_device_checks_its_receipt_with_the_genesis_alone() -> None:
    world = World()
    alice = Device("alice")
    request = world.request(world.enrol(alice), alice)
    world.block(request)
    watching = FinalityTracker(world.genesis.membership, world.genesis, world.scheme)
    for each in (1, 2):
        watching.feed(world.seal(each, world.blocks[0]))
    [final] = drain(watching)
    receipt = Proof(record=make_inclusion(final.block, 0, final.seals), epochs=())
    statement = ProofVerifier(world.genesis).verify(receipt)
    assert (statement.request, statement.status) == (request.id, "ok")


# --- encodings -----------------------------------------------------------------------------------


def test_ranges_are_written_in_one_way() -> None:
    blocks = BlockRange(start=1, blocks=sealed(WORLD))
    assert decode_range(encode_range(blocks)) == blocks
    assert [each.block for each in blocks.blocks] == WORLD.blocks


@settings(max_examples=200)
@given(st.data())
def test_no_altered_bit_of_a_range_is_taken(draw: st.DataObject) -> None:
    data = bytearray(encode_range(BlockRange(start=1, blocks=sealed(WORLD)[:2])))
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    data[bit // 8] ^= 1 << (bit % 8)
    copy = LedgerCopy(WORLD.genesis)
    try:
        copy.take(decode_range(bytes(data)))
    except PeerFault:
        return
    pytest.fail("an altered range was taken")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_range(data: bytes) -> None:
    with pytest.raises(PeerFault):
        decode_range(data)


def test_a_copy_of_heads_takes_none_of_an_old_epoch_above_its_boundary() -> None:
    """Replica 0 was removed. With another of the old members it seals a head of the old epoch."""
    world = World(replicas=5)
    for admin in world.admins[:2]:
        world.run(world.signed(RemoveReplica, admin, replica=0), admin)
    change = world.blocks[-1]
    step = make_inclusion(change, 0, world.seals(change, 1, 2))
    world.idle(6)  # up to the boundary, K = 8
    old = [SealedBlock(head=b.head, seals=tuple(world.seals(b, 1, 2))) for b in world.blocks]
    last = Head.decode(world.blocks[-1].head)
    assert last.height == 8
    above = msgspec.structs.replace(
        last,
        height=9,
        time_us=last.time_us + 1,
        parent=digest(world.blocks[-1].head),
        parent_root=last.root,
        root=EMPTY_ROOT,
        count=0,
    ).encode()
    seals = tuple(HeadSeal(each, world.replicas[each].sign(above)) for each in (0, 1))
    lie = BlockRange(start=9, blocks=(SealedBlock(head=above, seals=seals),))

    copy = LedgerCopy(world.genesis, bodies=False)
    copy.take(BlockRange(start=1, blocks=tuple(old), epochs=(step,)))
    assert copy.height == 8
    with pytest.raises(PeerFault, match="bad-epoch"):
        copy.take(lie)
    ignorant = LedgerCopy(world.genesis, bodies=False)
    ignorant.take(BlockRange(start=1, blocks=tuple(old)))
    assert ignorant.take(lie) == 1, "a copy that was not shown the change cannot know"
