"""Old blocks may lose payloads and signatures of data, and still prove themselves."""

from __future__ import annotations

import msgspec
import pytest

from chain.block import Block, Record
from chain.errors import PeerFault
from chain.genesis import Member
from chain.keys import digest
from chain.ledger.ledger import Ledger
from chain.ledger.operations import CloseSession, OpenSession, Revoke
from chain.ledger.pruning import prune
from chain.ledger.statement import decode_leaf, encode_leaf
from chain.pbft.messages import Seal
from chain.proofs.client import BlockRange, FinalityTracker, LedgerCopy, SealedBlock
from chain.proofs.proof import Proof, ProofVerifier, make_inclusion
from tests.chain.registry_support import renewal
from tests.chain.world import Device, World, signer


def busy() -> World:
    """Blocks with records of most kinds, and data that were accepted and refused."""
    world = World()
    alice, pi, heir = world.admit("alice"), world.admit("pi", kind="environment"), Device("heir")
    world.run(world.board(pi), pi)
    world.block(
        world.request(world.data(alice), alice),
        world.request(world.data(pi, board=world.board_node()), pi),
        world.request(world.data(alice, service="valve"), alice),
    )
    opened = world.run(world.signed(OpenSession, alice, service="telemetry"), alice)
    world.run(world.signed(CloseSession, alice, session=opened.session), alice)
    world.run(world.data(alice, board=world.board_node()), alice)
    replayed = world.data(alice)
    alice.counter += 5
    world.run(world.data(alice), alice)
    world.run(replayed, alice)
    world.run(renewal(world, alice, heir), alice)
    world.run(world.data(heir), heir)
    world.run(world.signed(Revoke, pi, target=pi.node, reason="gone"), pi)
    world.run(world.data(pi), pi)
    return world


WORLD = busy()
PRUNED = [prune(block) for block in WORLD.blocks]


def executed(blocks: list[Block]) -> Ledger:
    ledger = Ledger(WORLD.genesis, WORLD.scheme)
    for block in blocks:
        ledger.append(block, check_signatures=True)
    return ledger


def test_only_data_lose_anything_and_only_their_items() -> None:
    kept = set()
    for before, after in zip(WORLD.blocks, PRUNED, strict=True):
        assert before.head == after.head
        for whole, less in zip(before.records, after.records, strict=True):
            assert whole.leaf == less.leaf
            statement = decode_leaf(whole.leaf)
            assert less.item == (b"" if statement.op == "data" else whole.item)
            kept.add(statement.op if less.item else "")
    assert kept == {"", "enrol", "enrol-board", "open", "close", "renew", "revoke"}
    statuses = {
        decode_leaf(record.leaf).status
        for block in PRUNED
        for record in block.records
        if not record.item
    }
    assert {"ok", "refused:service", "refused:board", "refused:counter"} <= statuses


def test_pruned_blocks_lead_to_the_same_state() -> None:
    """Any mixture of pruned and whole ones."""
    for blocks in (PRUNED, [*PRUNED[:5], *WORLD.blocks[5:]], [*WORLD.blocks[:5], *PRUNED[5:]]):
        ledger = executed(blocks)
        assert ledger.head == WORLD.ledger.head
        assert ledger.registry.identities == WORLD.ledger.registry.identities
        assert ledger.registry.boards == WORLD.ledger.registry.boards
        again = next(
            WORLD.open(record.item)
            for record in WORLD.blocks[-1].records
            if decode_leaf(record.leaf).op == "data"
        )
        assert ledger.screen(again) == WORLD.ledger.screen(again)


def test_no_other_record_may_lack_its_item() -> None:
    for height, block in enumerate(WORLD.blocks):
        if decode_leaf(block.records[0].leaf).op == "data":
            continue
        lacking = (Record(block.records[0].leaf, b""), *block.records[1:])
        ledger = executed(WORLD.blocks[:height])
        with pytest.raises(PeerFault, match="bad-body: record 0 item"):
            ledger.append(Block(block.head, lacking), check_signatures=False)


def test_a_pruned_record_that_lies_is_refused_by_the_head() -> None:
    """Another counter, another signer, another status: the root commits to the leaf."""
    height = next(n for n, each in enumerate(PRUNED) if len(each.records) == 3)
    block = PRUNED[height]
    statement = decode_leaf(block.records[0].leaf)
    assert statement.counter is not None
    for changes in ({"counter": statement.counter + 9}, {"node": bytes(32)}, {"status": "ok!"}):
        leaf = encode_leaf(msgspec.structs.replace(statement, **changes))
        lie = Block(block.head, (Record(leaf, b""), *block.records[1:]))
        with pytest.raises(PeerFault, match="bad-body: root"):
            executed(WORLD.blocks[:height]).append(lie, check_signatures=False)


def test_a_devices_proof_and_receipts_stay() -> None:
    for block in PRUNED:
        for index, record in enumerate(block.records):
            inclusion = make_inclusion(block, index, WORLD.seals(block, 0, 1))
            request = decode_leaf(record.leaf).request
            proof = Proof(record=inclusion, epochs=())
            assert ProofVerifier(WORLD.genesis).verify(proof).request == request


def test_a_copy_counts_what_it_was_not_given() -> None:
    copy = LedgerCopy(WORLD.genesis)
    sealed = tuple(
        SealedBlock(head=each.head, seals=tuple(WORLD.seals(each, 0, 1)), records=each.records)
        for each in PRUNED
    )
    copy.take(BlockRange(start=1, blocks=sealed))
    gone = [record for block in PRUNED for record in block.records if not record.item]
    assert (copy.height, copy.pruned) == (len(PRUNED), len(gone))


@pytest.mark.parametrize("whole_first", [False, True])
def test_one_replica_cannot_withhold_payloads_from_a_gateway(whole_first: bool) -> None:
    """It says that fresh blocks are pruned. The whole ones of others count; and pruned ones when
    f+1 bring them so."""
    tracker = FinalityTracker(WORLD.genesis.membership, WORLD.genesis, WORLD.scheme)
    for whole, less in zip(WORLD.blocks, PRUNED, strict=True):
        liar = seal(0, less)
        honest = seal(1, whole)
        for each in (honest, liar) if whole_first else (liar, honest):
            tracker.feed(each)
        final = tracker.next_final()
        assert final is not None
        assert final.block == whole


def test_what_f_plus_1_replicas_pruned_is_taken_so() -> None:
    tracker = FinalityTracker(WORLD.genesis.membership, WORLD.genesis, WORLD.scheme)
    for less in PRUNED:
        tracker.feed(seal(0, less))
        tracker.feed(seal(0, less))
        whole = not less.pruned
        tracker.feed(Seal(2, 0, less.head, WORLD.replicas[2].sign(less.head)))
        final = tracker.next_final()
        assert (final is not None) == whole
        if final is None:
            tracker.feed(seal(1, less))
            final = tracker.next_final()
        assert final is not None
        assert final.block == less


def test_a_removed_replica_has_no_say_in_what_may_be_pruned() -> None:
    newer = Member(id=9, spki=signer("replica 9").public)
    members = msgspec.structs.replace(
        WORLD.genesis.membership, members=(*WORLD.genesis.membership.members[:3], newer)
    )
    tracker = FinalityTracker(members, WORLD.genesis, WORLD.scheme)
    for whole, less in zip(WORLD.blocks, PRUNED, strict=True):
        for replica in (3, 0):  # 3 is none of them
            tracker.feed(seal(replica, less))
        tracker.feed(Seal(1, 0, less.head, WORLD.replicas[1].sign(less.head)))
        if less.pruned:
            assert tracker.next_final() is None
            tracker.feed(seal(2, whole))
        final = tracker.next_final()
        assert final is not None
        assert final.block == whole


def seal(replica: int, block: Block) -> Seal:
    return Seal(replica, 0, block.head, WORLD.replicas[replica].sign(block.head), block)


def test_it_is_smaller() -> None:
    payload = bytes(1000)
    world = World()
    alice = world.admit("alice")
    world.run(world.data(alice, payload=payload), alice)
    block = world.blocks[-1]
    assert prune(block).body_bytes < block.body_bytes - len(payload)
    assert prune(prune(block)) == prune(block)
    assert digest(block.head) == prune(block).hash
