"""The ledger: equal proposals give equal blocks, and a block that was tampered with is named."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.block import Block, Head, Record
from chain.errors import Misuse, PeerFault
from chain.keys import digest
from chain.ledger.ledger import Ledger
from chain.ledger.operations import Revoke
from chain.ledger.statement import decode_leaf, encode_leaf
from chain.merkle import EMPTY_ROOT, leaf_hash, root
from chain.pbft.messages import Proposal
from chain.proofs.client import LedgerCopy, SealedBlock
from chain.proofs.proof import HeadSeal
from tests.chain.world import SECOND_US, START_US, World


def small_world() -> World:
    """Three blocks: an admission, two readings, nothing."""
    world = World()
    alice = world.admit("alice")
    world.block(*(world.request(world.data(alice), alice) for _ in range(2)))
    world.block()
    return world


WORLD = small_world()


def fresh() -> Ledger:
    return Ledger(WORLD.genesis, WORLD.scheme)


def seals(height: int) -> list[HeadSeal]:
    head = WORLD.blocks[height - 1].head
    return [HeadSeal(each, WORLD.replicas[each].sign(head)) for each in (1, 3)]


def test_heads_link_and_commit_to_the_records() -> None:
    parent_hash, parent_root = digest(WORLD_GENESIS_HEAD), EMPTY_ROOT
    for height, block in enumerate(WORLD.blocks, start=1):
        head = Head.decode(block.head)
        assert (head.height, head.epoch, head.count) == (height, 0, len(block.records))
        assert head.time_us == START_US + height * SECOND_US
        assert (head.parent, head.parent_root) == (parent_hash, parent_root)
        assert head.root == root([leaf_hash(record.leaf) for record in block.records])
        parent_hash, parent_root = block.hash, head.root
        for record in block.records:
            statement = decode_leaf(record.leaf)
            assert statement.item == digest(record.item)
            assert statement.time_us == head.time_us, "access time is consensus time"


WORLD_GENESIS_HEAD = fresh().head


@pytest.mark.parametrize("check_signatures", [True, False])
def test_blocks_that_come_whole_lead_to_the_same_state(check_signatures: bool) -> None:
    copy = fresh()
    for block in WORLD.blocks:
        copy.append(block, check_signatures)
    assert (copy.height, copy.head, copy.time_us) == (
        WORLD.ledger.height,
        WORLD.ledger.head,
        WORLD.ledger.time_us,
    )


def test_a_null_request_gives_an_empty_block_just_after_its_parent() -> None:
    ledger = fresh()
    block = ledger.execute(Proposal.null(1), (), 0)
    head = Head.decode(block.head)
    assert (head.count, head.root, head.time_us) == (0, EMPTY_ROOT, START_US + 1)


def test_proposals_of_different_views_may_meet_out_of_order_of_time() -> None:
    """Time on the chain rises all the same (`chain.pbft.effects.Execute`)."""
    ledger = fresh()
    block = ledger.execute(Proposal(seq=1, time_us=START_US - 5, view=0, items=()), (), 0)
    assert Head.decode(block.head).time_us == START_US + 1


def test_a_proposal_that_does_not_follow_is_our_own_mistake() -> None:
    ledger = fresh()
    for proposal, epoch in (
        (Proposal(seq=2, time_us=START_US + 1, view=0, items=()), 0),
        (Proposal(seq=1, time_us=START_US + 1, view=0, items=()), 1),
        (Proposal(seq=1, time_us=START_US + 1, view=0, items=(b"",)), 0),
    ):
        with pytest.raises(Misuse):
            ledger.execute(proposal, (), epoch)
    assert ledger.height == 0


def altered(block: Block, **fields: object) -> Block:
    head = msgspec.structs.replace(Head.decode(block.head), **fields)
    return Block(head.encode(), block.records)


SECOND = WORLD.blocks[1]


def with_leaf(leaf: bytes) -> Block:
    """The second block with another first statement, under a root that fits."""
    records = (Record(leaf, SECOND.records[0].item), *SECOND.records[1:])
    new_root = root([leaf_hash(record.leaf) for record in records])
    return Block(altered(SECOND, root=new_root).head, records)


def flattering() -> bytes:
    statement = decode_leaf(SECOND.records[0].leaf)
    return encode_leaf(msgspec.structs.replace(statement, privilege=255))


# Another second block, and what is wrong with it.
TAMPERED: list[tuple[Block, str, str]] = [
    (altered(SECOND, network=bytes(32)), "bad-link", "network"),
    (altered(SECOND, height=3), "bad-link", "height"),
    (altered(SECOND, parent=bytes(32)), "bad-link", "parent"),
    (altered(SECOND, parent_root=bytes(32)), "bad-link", "parent_root"),
    (altered(SECOND, time_us=START_US), "bad-link", "time_us"),
    (altered(SECOND, epoch=1), "bad-link", "epoch"),
    (altered(SECOND, count=3), "bad-body", "count"),
    (altered(SECOND, root=bytes(32)), "bad-body", "root"),
    (Block(SECOND.head, SECOND.records[::-1]), "bad-body", "root"),
    (
        Block(SECOND.head, (Record(SECOND.records[0].leaf, b"x"), SECOND.records[1])),
        "bad-body",
        "record 0 item",
    ),
    (with_leaf(flattering()), "bad-execution", "record 0 statement"),
    (Block(b"short", ()), "bad-head", ""),
]


@pytest.mark.parametrize(("block", "code", "field"), TAMPERED)
def test_a_block_that_was_tampered_with_is_refused_by_field(
    block: Block, code: str, field: str
) -> None:
    ledger = fresh()
    ledger.append(WORLD.blocks[0], check_signatures=True)
    with pytest.raises(PeerFault) as fault:
        ledger.append(block, check_signatures=False)
    assert fault.value.code == code
    assert str(fault.value).startswith(f"{code}: {field}")
    if code == "bad-execution":
        with pytest.raises(Misuse):
            ledger.append(SECOND, check_signatures=False)
    else:
        ledger.append(SECOND, check_signatures=True)  # nothing had changed


def test_a_digest_in_another_field_does_not_vouch_for_a_body() -> None:
    """A sponsor may name any firmware hash, so also that of an item that it would like to swap in:
    a lying source must not get it executed."""
    world = World()
    pi = world.admit("pi", kind="environment")
    swapped = world.request(world.data(pi, payload=b"never ordered"), pi)
    enrolment = world.board(pi, firmware=digest(swapped.item))
    world.run(enrolment, pi)
    honest = world.blocks[-1]
    copy = Ledger(world.genesis, world.scheme)
    copy.append(world.blocks[0], check_signatures=True)
    lie = Block(honest.head, (Record(honest.records[0].leaf, swapped.item),))
    with pytest.raises(PeerFault, match="bad-body"):
        copy.append(lie, check_signatures=False)
    copy.append(honest, check_signatures=False)


@settings(max_examples=150)
@given(st.data())
def test_one_flipped_bit_anywhere_is_found(draw: st.DataObject) -> None:
    """In a head, a statement, an item with its signatures, or a head's signature."""
    height = draw.draw(st.integers(1, 3))
    block = WORLD.blocks[height - 1]
    parts = [block.head, *(part for each in block.records for part in (each.leaf, each.item))]
    parts += [seal.signature for seal in seals(height)]
    victim = draw.draw(st.integers(0, len(parts) - 1))
    bit = draw.draw(st.integers(0, len(parts[victim]) * 8 - 1))
    flipped = bytearray(parts[victim])
    flipped[bit // 8] ^= 1 << (bit % 8)
    parts[victim] = bytes(flipped)
    count = len(block.records)
    records = tuple(Record(parts[1 + 2 * i], parts[2 + 2 * i]) for i in range(count))
    copy = LedgerCopy(WORLD.genesis)
    for at, whole in enumerate(WORLD.blocks[: height - 1], start=1):
        copy.append(SealedBlock(head=whole.head, seals=tuple(seals(at)), records=whole.records))
    first, second = parts[-2:]
    altered_seals = (HeadSeal(1, first), HeadSeal(3, second))
    with pytest.raises(PeerFault):
        copy.append(SealedBlock(head=parts[0], seals=altered_seals, records=records))


def test_a_chain_is_verified_across_a_change_of_members() -> None:
    world = World()
    alice = world.admit("alice")
    world.idle(1)
    assert world.run(world.signed(Revoke, alice, target=alice.node, reason="done"), alice)
    world.add_replica(4)
    world.idle(9)
    world.admit("bob")

    def sealed(height: int) -> list[HeadSeal]:
        head = world.blocks[height - 1].head
        by = (0, 4) if height > 8 else (0, 1)
        return [HeadSeal(each, world.replicas[each].sign(head)) for each in by]

    copy = LedgerCopy(world.genesis)
    for height, block in enumerate(world.blocks, start=1):
        seals_of = tuple(sealed(height))
        copy.append(SealedBlock(head=block.head, seals=seals_of, records=block.records))
    assert copy.height == world.ledger.height
    assert Head.decode(world.ledger.head).epoch == 1
