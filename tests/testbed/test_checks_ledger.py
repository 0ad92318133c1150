"""The independent reader of stored ledgers: whatever byte was changed, it says where."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from chain.block import HEAD_BYTES, Block
from chain.ledger.item import cose_of, make_item, read_item
from chain.ledger.pruning import prune
from chain.pbft.messages import Checkpoint, CheckpointProof, encode
from nodes.replica.ledger_copy import copy_ledger
from nodes.replica.ledger_file import encode_records, fact_sum
from testbed.checks.diagnosis import HEAD_FIELDS
from testbed.checks.finding import Finding
from testbed.checks.ledger import verify_ledgers
from testbed.checks.properties import validity
from tests.chain.world import Device, World
from tests.testbed.bundles import edit, store

DATA, EMPTY, LAST = 2, 3, 10  # heights: two records; none; the last block, which has none


def grow(world: World, device: Device, label: bytes) -> None:
    """Blocks 4..LAST: a few with a record, one checkpoint at 8."""
    world.run(world.data(device, label), device)
    world.idle(LAST - world.ledger.height)


def begun() -> tuple[World, Device]:
    """A world of three blocks: an enrolment, two readings, nothing."""
    world = World()
    device = world.admit("phone")
    world.block(*(world.request(world.data(device, b"%d" % n), device) for n in range(2)))
    world.idle(1)
    return world, device


@pytest.fixture(scope="module")
def world() -> World:
    world, device = begun()
    grow(world, device, b"21.5")
    return world


@pytest.fixture(scope="module")
def original(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return at_rest(world, tmp_path_factory.mktemp("ledger"), 1, world.blocks)


def at_rest(world: World, folder: Path, replica: int, blocks: Sequence[Block]) -> Path:
    database = store(world, folder / f"{replica}.db", replica, blocks)
    copy_ledger(database, folder / f"r{replica}.sqlite")
    return folder / f"r{replica}.sqlite"


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / original.name))


def only(path: Path) -> Finding:
    findings = verify_ledgers([path]).findings
    assert len(findings) == 1, findings
    return findings[0]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 0x01,)) + data[at + 1 :]


def columns(path: Path, height: int) -> dict[str, bytes]:
    with sqlite3.connect(path) as database:
        query = "SELECT head, records, signature FROM blocks WHERE height = ?"
        row = database.execute(query, (height,)).fetchone()
    database.close()
    return dict(zip(("head", "records", "signature"), row, strict=True))


def test_an_untouched_ledger_holds_from_genesis(world: World, original: Path) -> None:
    """One file alone: its own signatures, and what its checkpoint's quorum vouches for."""
    report = verify_ledgers([original], world.genesis)
    assert report.holds
    (file,) = report.files
    assert (file.height, file.verified, file.records, file.replica) == (LAST, LAST, 4, 1)
    assert report.proven == 8
    assert report.network == world.network.hex()


def test_f_plus_1_ledgers_prove_the_chain_to_its_end(world: World, tmp_path: Path) -> None:
    paths = [at_rest(world, tmp_path, replica, world.blocks) for replica in range(2)]
    assert verify_ledgers(paths, world.genesis).proven == LAST


@pytest.mark.parametrize("height", [DATA, EMPTY, LAST])
@pytest.mark.parametrize("offset", range(0, HEAD_BYTES, 3))
def test_a_flipped_byte_of_a_head_is_named_by_its_field(
    copy: Path, height: int, offset: int
) -> None:
    """Whether or not the flipper also fixed the checksum."""
    edit(copy, height, mend_sum=True, head=flipped(columns(copy, height)["head"], offset))
    finding = only(copy)
    (field,) = (name for name, at, size in HEAD_FIELDS if at <= offset < at + size)
    assert (finding.height, finding.field) == (height, f"head.{field}")


def regions(world: World, height: int) -> list[tuple[int, int, str]]:
    """Where leaves and items stand in the stored records: start, stop, what."""
    block = world.blocks[height - 1]
    stored = encode_records(block)
    found = []
    for index, record in enumerate(block.records):
        for name, value in (("leaf", record.leaf), ("item", record.item)):
            start = stored.index(value)
            found.append((start, start + len(value), f"record {index} {name}"))
    return found


def test_a_flipped_byte_of_a_body_is_named_by_its_record(
    world: World, original: Path, tmp_path: Path
) -> None:
    """Leaves and items by record; bytes of the encoding around them as `records`."""
    stored = columns(original, DATA)["records"]
    for offset in [*range(6), *range(6, len(stored), 23)]:
        path = Path(shutil.copy(original, tmp_path / "r.sqlite"))
        edit(path, DATA, mend_sum=True, records=flipped(stored, offset))
        finding = only(path)
        inside = [name for start, stop, name in regions(world, DATA) if start <= offset < stop]
        assert finding.height == DATA
        assert finding.field in (inside or ["records"]), (offset, finding)


@pytest.mark.parametrize("height", [DATA, EMPTY, LAST])
@pytest.mark.parametrize("offset", [0, 31, 63])
def test_a_flipped_byte_of_a_signature_is_named(copy: Path, height: int, offset: int) -> None:
    edit(copy, height, mend_sum=True, signature=flipped(columns(copy, height)["signature"], offset))
    finding = only(copy)
    assert (finding.height, finding.field) == (height, "signature")


def test_another_encoding_of_the_same_records_is_named(copy: Path) -> None:
    """Even bytes that mean nothing must be those that were written."""
    stored = columns(copy, 1)["records"]
    at = stored.index(b"\xc5")  # the first leaf, of more than 255 bytes: bin 16
    longer = stored[:at] + b"\xc6\0\0" + stored[at + 1 :]
    edit(copy, 1, mend_sum=True, records=longer)
    assert (only(copy).height, only(copy).field) == (1, "records")


def test_a_sum_that_does_not_fit_is_named_though_the_block_holds(copy: Path) -> None:
    with sqlite3.connect(copy) as database:
        database.execute("UPDATE blocks SET sum = sum + 1 WHERE height = 4")
    database.close()
    assert (only(copy).height, only(copy).field) == (4, "sum")


def test_no_byte_of_a_blocks_row_in_the_file_can_change_unseen(
    world: World, original: Path, tmp_path: Path
) -> None:
    """Not even those that are SQLite's: the row's header and its sum. In a file without free space:
    there an older copy of the row may stand, which nobody reads."""
    whole = tmp_path / "whole.sqlite"
    with sqlite3.connect(original) as database:
        database.execute("VACUUM INTO ?", [str(whole)])
    database.close()
    content = whole.read_bytes()
    start = content.index(world.blocks[DATA - 1].head)
    stop = start + HEAD_BYTES + len(columns(original, DATA)["records"]) + 64 + 4
    path = tmp_path / "flipped.sqlite"
    for offset in [*range(start - 12, start), *range(start, stop, 41), *range(stop - 4, stop)]:
        path.write_bytes(flipped(content, offset))
        assert not verify_ledgers([path], world.genesis).holds, offset - start


@pytest.mark.parametrize(
    ("change", "height", "field"),
    [
        ("DELETE FROM blocks WHERE height = 5", 5, "height"),
        ("UPDATE blocks SET head = 'text' WHERE height = 7", 7, "head"),
        ("UPDATE blocks SET records = NULL WHERE height = 7", 7, "records"),
        ("UPDATE blocks SET height = -1 WHERE height = 7", 7, "height"),
    ],
)
def test_missing_blocks_and_wrong_types_are_named(
    copy: Path, change: str, height: int, field: str
) -> None:
    with sqlite3.connect(copy) as database:
        database.execute(change)
    database.close()
    assert (only(copy).height, only(copy).field) == (height, field)


def test_above_the_first_wrong_block_damaged_rows_are_still_named(copy: Path) -> None:
    edit(copy, 2, signature=bytes(64))
    edit(copy, 4, mend_sum=True, head=bytes(HEAD_BYTES))
    edit(copy, 6, records=b"")
    found = [(finding.height, finding.field) for finding in verify_ledgers([copy]).findings]
    assert found == [(2, "signature"), (2, "sum"), (4, "head.tag"), (6, "sum")]


def bad_signature(proof: CheckpointProof) -> CheckpointProof:
    first = replace(proof.votes[0], signature=bytes(64))
    return replace(proof, votes=(first, *proof.votes[1:]))


def one_voter_thrice(proof: CheckpointProof) -> CheckpointProof:
    return replace(proof, votes=proof.votes[:1] * 3)


def too_few(proof: CheckpointProof) -> CheckpointProof:
    return replace(proof, votes=proof.votes[:2])


def another_head(proof: CheckpointProof) -> CheckpointProof:
    return replace(proof, head=bytes(32))


def votes_for_another_head(proof: CheckpointProof) -> CheckpointProof:
    body = encode(Checkpoint(0, 0, proof.seq, bytes(32)))
    return replace(proof, votes=(replace(proof.votes[0], body=body), *proof.votes[1:]))


def a_stranger(proof: CheckpointProof) -> CheckpointProof:
    body = encode(Checkpoint(0, 9, proof.seq, proof.head))
    return replace(proof, votes=(replace(proof.votes[0], body=body), *proof.votes[1:]))


@pytest.mark.parametrize(
    "forge",
    [bad_signature, one_voter_thrice, too_few, another_head, votes_for_another_head, a_stranger],
)
def test_a_checkpoint_that_no_quorum_signed_proves_nothing_and_is_named(
    copy: Path, forge: Callable[[CheckpointProof], CheckpointProof]
) -> None:
    with sqlite3.connect(copy) as database:
        ((data,),) = database.execute("SELECT data FROM facts WHERE kind = 'stable'")
        forged = encode(forge(msgspec.msgpack.decode(data, type=CheckpointProof)))
        database.execute(
            "UPDATE facts SET data = ?, sum = ?", (forged, fact_sum("stable", 0, 8, forged))
        )
    database.close()
    report = verify_ledgers([copy])
    assert [(each.height, each.field) for each in report.findings] == [(8, "checkpoint proof")]
    assert report.proven == 0


def test_a_damaged_checkpoint_is_named(copy: Path) -> None:
    with sqlite3.connect(copy) as database:
        database.execute("UPDATE facts SET data = x'00'")
    database.close()
    assert "sequence 8" in only(copy).detail


@pytest.mark.parametrize("content", [b"", b"not a database", bytes(8192)])
def test_what_is_no_ledger_is_one_finding(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    assert only(path).field == "file"
    assert only(tmp_path / "absent.sqlite").field == "file"


def test_a_ledger_of_another_genesis_is_refused(original: Path) -> None:
    other = World(replicas=5)
    report = verify_ledgers([original], other.genesis)
    assert [finding.field for finding in report.findings] == ["file"]


def test_one_that_is_being_added_has_a_ledger_that_holds(tmp_path: Path) -> None:
    """It follows the chain from the block on that decides it; its epoch has not begun."""
    world, _ = begun()
    world.add_replica(4)
    assert world.ledger.membership.spki(4) is None
    path = at_rest(world, tmp_path, 4, world.blocks)
    assert verify_ledgers([path], world.genesis).findings == ()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE blocks SET signature = ? WHERE height = 1", (bytes(64),))
    database.close()
    edit(path, 1, mend_sum=True)
    assert (only(path).height, only(path).field) == (1, "signature")


def test_heads_that_no_member_signed_do_not_hold(copy: Path) -> None:
    """Else whoever rewrites a chain need only call the file a stranger's."""
    with sqlite3.connect(copy) as database:
        database.execute("UPDATE meta SET value = '9' WHERE name = 'replica'")
        database.execute("UPDATE blocks SET signature = ?", (bytes(64),))
    database.close()
    for height in range(1, LAST + 1):
        edit(copy, height, mend_sum=True)
    found = only(copy)
    assert (found.height, found.field) == (0, "replica")


def test_a_rewritten_and_rehashed_chain_fails_at_the_clients_signature(tmp_path: Path) -> None:
    """All replicas together may re-hash and re-sign; they cannot sign for a device."""
    world, device = begun()
    item = world.request(world.data(device, b"21.5"), device).item
    cose = cose_of(item)
    forged = make_item(cose[:-1] + bytes((cose[-1] ^ 1,)))
    world.block(read_item(forged, world.network))
    world.idle(2)
    finding = only(at_rest(world, tmp_path, 0, world.blocks))
    assert (finding.height, finding.field) == (4, "record 0 item")
    assert "bad-signature" in finding.detail


def test_two_ledgers_that_fork_are_both_valid_and_reported(tmp_path: Path) -> None:
    chains = []
    for replica, label in enumerate((b"one", b"two")):
        world, device = begun()
        grow(world, device, label)
        chains.append(at_rest(world, tmp_path, replica, world.blocks))
        assert verify_ledgers(chains[-1:]).holds
    (finding,) = verify_ledgers(chains).findings
    assert (finding.file, finding.height, finding.field) == ("r1.sqlite", 4, "head")
    assert "fork: r0.sqlite" in finding.detail


# --- pruned ledgers ---


def with_data(blocks: int) -> World:
    world = World()
    alice = world.admit("alice")
    while len(world.blocks) < blocks:
        world.run(world.data(alice), alice)
    return world


def test_a_pruned_ledger_says_how_far_it_is_pruned(tmp_path: Path) -> None:
    world = with_data(10)  # block 8 is a checkpoint
    blocks = [
        prune(block) if height <= 7 else block for height, block in enumerate(world.blocks, 1)
    ]
    report = verify_ledgers([store(world, tmp_path / "a.sqlite", 1, blocks)], world.genesis)
    (file,) = report.files
    assert report.holds
    assert (file.verified, file.pruned, file.pruned_to, report.pruned) == (10, 6, 7, 6)
    judged = validity(report)
    assert (judged.held, "pruned up to height 7" in judged.detail) == (None, True)

    whole = store(world, tmp_path / "b.sqlite", 2, world.blocks)
    both = verify_ledgers([tmp_path / "a.sqlite", whole], world.genesis)
    assert (both.pruned, validity(both).held) == (0, True), "somebody has all of it"


@pytest.mark.parametrize(("height", "unseen"), [(1, 6), (6, 6), (7, 0), (9, 0)])
def test_a_short_file_does_not_vouch_for_what_is_pruned_above_it(
    tmp_path: Path, height: int, unseen: int
) -> None:
    """A replica that lagged has pruned nothing, and has not seen the rest either."""
    world = with_data(10)
    blocks = [prune(block) for block in world.blocks[:7]] + world.blocks[7:]
    paths = [
        store(world, tmp_path / "a.sqlite", 1, blocks),
        store(world, tmp_path / "b.sqlite", 2, world.blocks[:height]),
    ]
    report = verify_ledgers(paths, world.genesis)
    assert report.holds
    assert report.pruned == unseen
    assert validity(report).held is (None if unseen else True)


def test_a_lone_file_cannot_call_its_inventions_pruned(tmp_path: Path) -> None:
    """Above the last proven checkpoint a liar could make up data that no device signed."""
    world = with_data(10)
    blocks = [prune(block) for block in world.blocks]
    report = verify_ledgers([store(world, tmp_path / "a.sqlite", 1, blocks)], world.genesis)
    (finding,) = report.findings
    assert (finding.height, finding.field) == (10, "record item")
    assert validity(report).held is False
