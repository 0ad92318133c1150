"""One conformance suite over every store, and what only the one on disk must survive."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.block import HEAD_BYTES, Block, Record
from chain.errors import Misuse
from chain.keys import SIGNATURE_BYTES
from chain.pbft.effects import Durable
from nodes.exits import Trouble
from nodes.ports import PRUNE_BLOCKS_MAX, Store, Stored, StoreFull
from nodes.replica import sqlite_store
from nodes.replica.ledger_copy import copy_ledger
from nodes.replica.ledger_file import (
    SCHEMA,
    Damaged,
    block_sum,
    checked_facts,
    fact_sum,
    open_readonly,
)
from nodes.replica.memory_store import MemoryStore
from nodes.replica.sqlite_store import WAL_BYTES, SqliteStore, mark_path, move_aside, moved_aside

GENESIS = b"genesis"


@pytest.fixture(autouse=True, scope="module")
def short_log() -> Iterator[None]:
    """Each store that is opened would write and sync 16 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_store, "WAL_BYTES", 65_536)
        yield


def stored(height: int, records: int = 2) -> Stored:
    head = height.to_bytes(8, "big") * (HEAD_BYTES // 8)
    body = tuple(Record(b"leaf %d" % n, b"item %d" % height) for n in range(records))
    return Stored(Block(head, body), bytes([height % 256]) * SIGNATURE_BYTES)


def sqlite(path: Path) -> SqliteStore:
    return SqliteStore(path / "ledger.db", GENESIS, 2)


STORES: dict[str, Callable[[Path], Store]] = {"memory": lambda _: MemoryStore(), "sqlite": sqlite}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: Store = STORES[request.param](tmp_path)
    return made


def test_old_blocks_are_pruned_a_few_at_a_time(store: Store) -> None:
    """Only what may go: records of data."""
    data, other = b"\xa5\x62op\x64data", b"\xa5\x62op\x65enrol"
    for height in range(1, 12):
        records = (Record(data, b"item"), Record(other, b"item"))
        store.put_block(height, Stored(Block(stored(height).block.head, records), bytes(64)))
    store.prune(-3)
    assert store.pruned == 0
    while store.pruned < 9:
        before = store.pruned
        store.prune(9)
        assert before < store.pruned <= before + PRUNE_BLOCKS_MAX
    store.prune(5)
    store.commit()
    assert store.pruned == 9
    items = [tuple(record.item for record in each.block.records) for each in store.blocks(1, 11)]
    assert items == [(b"", b"item")] * 9 + [(b"item", b"item")] * 2
    assert store.heads(1, 11) == [stored(height).block.head for height in range(1, 12)]


def test_a_file_of_before_there_was_pruning_is_read(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    store.put_block(1, stored(1))
    store.commit()
    store.close()
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("DROP TABLE pruned")
    with open_readonly(tmp_path / "ledger.db") as file:
        assert [each.block for each in file.blocks()] == [stored(1).block]
    sqlite(tmp_path).close()


def test_what_was_pruned_is_known_after_a_restart(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    for height in range(1, 4):
        store.put_block(height, stored(height))
    store.prune(2)
    store.commit()
    store.close()
    again = sqlite(tmp_path)
    assert (again.pruned, again.height) == (2, 3)
    assert len(list(again.blocks(1, 3))) == 3, "their checksums hold"
    again.close()
    with open_readonly(tmp_path / "ledger.db") as file:
        assert len(list(file.blocks())) == 3


def test_a_later_fact_of_the_same_key_replaces_the_earlier(store: Store) -> None:
    store.put_fact(Durable("proposal", 0, 1, b"old"))
    store.put_fact(Durable("proposal", 1, 1, b"other view"))
    store.put_fact(Durable("proposal", 0, 1, b"new"))
    store.commit()
    assert store.facts() == [
        Durable("proposal", 0, 1, b"new"),
        Durable("proposal", 1, 1, b"other view"),
    ]


def test_a_fact_is_found_by_its_key_even_before_it_is_committed(store: Store) -> None:
    for view, seq in ((0, 1), (1, 1), (0, 2)):
        store.put_fact(Durable("proposal", view, seq, b"%d of %d" % (seq, view)))
    assert store.fact("proposal", 1, 1) == Durable("proposal", 1, 1, b"1 of 1")
    assert store.fact("proposal", 1, 2) is None
    assert store.fact("prepared", 0, 1) is None


def test_forget_trims_votes_up_to_a_sequence_and_keeps_the_rest(store: Store) -> None:
    for kind in ("proposal", "prepared", "stable", "view"):
        for seq in (1, 2, 3):
            store.put_fact(Durable(kind, 0, seq, b""))
    store.forget(2)
    assert [(fact.kind, fact.seq) for fact in store.facts()] == [
        ("prepared", 3),
        ("proposal", 3),
        *[("stable", seq) for seq in (1, 2, 3)],
        *[("view", seq) for seq in (1, 2, 3)],
    ]


def test_blocks_come_back_by_range_even_before_they_are_committed(store: Store) -> None:
    for height in range(1, 6):
        store.put_block(height, stored(height))
    assert store.height == 5
    assert list(store.blocks(2, 4)) == [stored(2), stored(3), stored(4)]
    assert store.heads(4, 9) == [stored(4).block.head, stored(5).block.head]
    assert list(store.blocks(6, 9)) == []
    assert list(store.blocks(0, 0)) == []


def test_a_gap_between_blocks_is_our_bug(store: Store) -> None:
    store.put_block(1, stored(1))
    with pytest.raises(Misuse):
        store.put_block(3, stored(3))


def test_the_next_stable_checkpoint_is_found(store: Store) -> None:
    for seq in (64, 192, 128):
        store.put_fact(Durable("stable", 0, seq, b"proof %d" % seq))
    found = [store.stable_from(seq) for seq in (0, 64, 65, 192, 193)]
    assert [fact and fact.seq for fact in found] == [64, 64, 128, 192, None]
    store.put_fact(Durable("prepared", 0, 193, b"certificate"))
    store.put_fact(Durable("stable", 0, 192, b"again"))
    assert store.stable_from(193) is None
    again = store.stable_from(129)
    assert again == Durable("stable", 0, 192, b"again")


@settings(max_examples=30)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("put"),
                st.sampled_from(["proposal", "prepared", "view", "stable"]),
                st.integers(0, 2),
                st.integers(0, 6),
                st.binary(max_size=8),
            ),
            st.tuples(st.just("forget"), st.integers(0, 6)),
            st.tuples(st.just("commit")),
        ),
        max_size=30,
    )
)
def test_both_stores_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """Any history leaves the same facts in memory and on disk, also after reopening."""
    directory = tmp_path_factory.mktemp("store")
    memory, disk = MemoryStore(), sqlite(directory)
    for store in (memory, disk):
        for name, *values in steps:
            match name:
                case "put":
                    store.put_fact(Durable(*values))  # type: ignore[arg-type]
                case "forget":
                    store.forget(*values)  # type: ignore[arg-type]
                case _:
                    store.commit()
    assert disk.facts() == memory.facts()
    assert disk.stable_from(3) == memory.stable_from(3)
    disk.close()
    again = sqlite(directory)
    assert again.facts() == memory.facts()
    again.close()


def filled(directory: Path, heights: int = 40) -> Path:
    store = sqlite(directory)
    for height in range(1, heights + 1):
        store.put_block(height, stored(height))
        store.put_fact(Durable("prepared", 0, height, b"certificate %d" % height))
        store.commit()
    store.close()
    return store.path


def test_what_was_committed_is_there_after_reopening_and_for_readers(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with open_readonly(path) as reader:
        assert reader.genesis == GENESIS
        assert reader.replica == 2
        assert list(reader.blocks(39)) == [stored(39), stored(40)]
    again = sqlite(tmp_path)
    assert again.height == 40
    assert len(again.facts()) == 40
    again.put_fact(Durable("stable", 0, 40, b"proof"))
    again.commit()
    copy_ledger(path, tmp_path / "copy.db")  # of a running replica
    again.close()
    with open_readonly(tmp_path / "copy.db") as copy:
        assert copy.height == 40
        assert list(copy.stable()) == [Durable("stable", 0, 40, b"proof")]


def test_a_reader_sees_what_a_running_replica_has_committed(tmp_path: Path) -> None:
    """It is in the log beside the database, and not yet folded into it."""
    store = sqlite(tmp_path)
    store.put_block(1, stored(1))
    store.commit()
    with open_readonly(store.path) as reader:
        assert list(reader.blocks()) == [stored(1)]
    store.close()


def test_a_ledger_on_a_medium_that_takes_no_writes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite wants to make a file beside it, and is refused."""

    class Refused(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("unable to open database file")

    connect = sqlite3.connect

    def on_the_medium(name: str, **options: Any) -> sqlite3.Connection:
        immutable = name.endswith("?immutable=1")
        return connect(name, factory=sqlite3.Connection if immutable else Refused, **options)

    path = filled(tmp_path, 2)
    monkeypatch.setattr(sqlite3, "connect", on_the_medium)
    with open_readonly(path) as reader:
        assert list(reader.blocks()) == [stored(1), stored(2)]


def test_rows_are_shown_as_they_stand_there(tmp_path: Path) -> None:
    """Also one of a height that there is not."""
    path = filled(tmp_path, 2)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO blocks VALUES (0, 'a', 'b', 'c', 7)")
    with open_readonly(path) as reader:
        assert [row[0] for row in reader.rows()] == [0, 1, 2]
        assert next(reader.rows()) == (0, "a", "b", "c", 7)


def test_a_checksum_is_over_every_field_of_a_row() -> None:
    """And the same in every version: files stay."""
    assert block_sum(1, b"head", b"records", b"signature") == 148670140
    assert block_sum(2**32 + 1, b"head", b"records", b"signature") == 148670140
    assert fact_sum("stable", 1, 2, b"data") == 3564533926
    blocks = [(1, b"h", b"r", b"s"), (2, b"h", b"r", b"s"), (1, b"x", b"r", b"s"),
              (1, b"h", b"x", b"s"), (1, b"h", b"r", b"x")]  # fmt: skip
    assert len({block_sum(*each) for each in blocks}) == len(blocks)
    facts = [("view", 1, 2, b"d"), ("stable", 1, 2, b"d"), ("view", 2, 2, b"d"),
             ("view", 1, 1, b"d"), ("view", 1, 2, b"x")]  # fmt: skip
    assert len({fact_sum(*each) for each in facts}) == len(facts)


@pytest.mark.parametrize(
    "changed",
    [{"kind": 7}, {"view": "1"}, {"seq": "2"}, {"data": bytearray(b"data")}, {"kind": "other"}],
)
def test_a_fact_is_of_the_types_that_it_was_written_with(changed: dict[str, Any]) -> None:
    """Even if its checksum holds."""
    good: dict[str, Any] = {"kind": "stable", "view": 1, "seq": 2, "data": b"data"}
    right = (*good.values(), fact_sum(**good))
    assert list(checked_facts(iter([right]))) == [Durable(**good)]
    wrong = good | changed
    for row in ((*wrong.values(), fact_sum(**wrong)), (*good.values(), fact_sum(**good) + 1)):
        with pytest.raises(Damaged, match="fact "):
            list(checked_facts(iter([right, row])))


def test_a_mark_that_is_cut_or_changed_is_damage_and_one_that_was_never_written_is_none(
    tmp_path: Path,
) -> None:
    path = filled(tmp_path, 3)
    mark = mark_path(path)
    whole = mark.read_bytes()
    assert len(whole) == 12
    assert not mark.stat().st_mode & 0o133, "nobody runs it, and only its owner writes"
    for data, what in ((whole[:-1], "cut off"), (bytes([1]) + whole[1:], "damaged")):
        mark.write_bytes(data)
        with pytest.raises(Damaged, match=what):
            sqlite(tmp_path)
    mark.write_bytes(whole[:7] + b"\x02" + zlib.crc32(whole[:7] + b"\x02").to_bytes(4, "big"))
    sqlite(tmp_path).close()  # the power went before the last mark was written
    mark.write_bytes(b"")
    store = sqlite(tmp_path)
    store.put_block(4, stored(4))
    store.close()
    assert mark.read_bytes()[:8] == (4).to_bytes(8, "big")


def test_a_commit_may_run_in_another_thread(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    store.put_block(1, stored(1))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.commit).result()
    store.close()
    assert sqlite(tmp_path).height == 1


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    first = sqlite(tmp_path)
    with pytest.raises(Trouble, match="another process"):
        sqlite(tmp_path)
    first.close()
    sqlite(tmp_path).close()


@pytest.mark.parametrize(("genesis", "replica"), [(b"other", 2), (GENESIS, 3)])
def test_a_store_of_another_network_or_replica_is_refused(
    tmp_path: Path, genesis: bytes, replica: int
) -> None:
    path = filled(tmp_path)
    with pytest.raises(Trouble, match="another"):
        SqliteStore(path, genesis, replica)


def read_all(path: Path) -> None:
    store = SqliteStore(path, GENESIS, 2)
    try:
        for height, found in enumerate(store.blocks(1, store.height), 1):
            assert found == stored(height)
        for fact in store.facts():
            assert fact.data == b"certificate %d" % fact.seq
        assert store.height == 40
    finally:
        store.close()


def test_a_flipped_bit_is_damage_or_harmless_never_other_content(tmp_path: Path) -> None:
    """One bit flipped at any of many places: the store opens with exactly what was written, or it
    says that it is damaged."""
    path = filled(tmp_path)
    whole = path.read_bytes()
    found = 0
    for at in range(0, len(whole), 997):
        shutil.copy(path, tmp_path / "one.db")
        shutil.copy(mark_path(path), mark_path(tmp_path / "one.db"))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        (tmp_path / "one.db").write_bytes(flipped)
        try:
            read_all(tmp_path / "one.db")
        except (Damaged, Trouble):
            found += 1
    assert found > len(whole) // 997 // 4


def test_a_name_that_is_no_text_any_more_is_damage(tmp_path: Path) -> None:
    """SQLite hands out any bytes; Python says that they are no UTF-8, and gives no error code."""
    path = filled(tmp_path)
    flipped = bytearray(path.read_bytes())
    flipped[flipped.index(b"schema" + SCHEMA.encode())] ^= 0x80
    path.write_bytes(flipped)
    with pytest.raises(Damaged, match=r"\.db: .*UTF-8"):
        read_all(path)


def test_a_cut_file_is_damage(tmp_path: Path) -> None:
    path = filled(tmp_path)
    size = path.stat().st_size
    for part in (0, 10, size // 2, size - 4096):
        shutil.copy(path, tmp_path / "cut.db")
        shutil.copy(mark_path(path), mark_path(tmp_path / "cut.db"))
        os.truncate(tmp_path / "cut.db", part)
        with pytest.raises(Damaged):
            read_all(tmp_path / "cut.db")


def test_an_older_copy_is_damage_and_moving_it_aside_makes_room(tmp_path: Path) -> None:
    """A database restored from before the last commit lacks votes: it must not be voted on."""
    path = filled(tmp_path)
    shutil.copy(path, tmp_path / "older")
    store = sqlite(tmp_path)
    store.put_fact(Durable("prepared", 0, 41, b"a vote that left"))
    store.commit()
    store.close()
    shutil.copy(tmp_path / "older", path)
    with pytest.raises(Damaged, match="older copy"):
        sqlite(tmp_path)
    assert not moved_aside(path)
    aside = move_aside(path)
    assert aside.exists()
    assert moved_aside(path)
    fresh = sqlite(tmp_path)
    assert (fresh.height, fresh.facts(), fresh.untouched) == (0, [], True)
    fresh.note("abstention", 7)
    fresh.commit()
    fresh.close()
    again = sqlite(tmp_path)
    assert (again.noted("abstention"), again.untouched) == (7, False)
    again.close()


def test_a_full_disk_is_an_error_and_nothing_of_the_transaction_stays(
    tmp_path: Path, connections: list[sqlite3.Connection]
) -> None:
    store = sqlite(tmp_path)
    store.put_fact(Durable("prepared", 0, 1, b"before"))
    store.commit()
    (connection,) = connections
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFull, match="is full"):
        store.put_fact(Durable("prepared", 0, 2, bytes(100_000)))
    assert [fact.data for fact in store.facts()] == [b"before"]
    store.close()
    again = sqlite(tmp_path)
    assert [fact.data for fact in again.facts()] == [b"before"]
    again.close()


def test_a_write_that_fails_takes_what_was_written_before_it_along(tmp_path: Path) -> None:
    """SQLite itself goes back by one statement only."""
    path = filled(tmp_path, 1)
    store = sqlite(tmp_path)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("INSERT INTO blocks (height) VALUES (2)")
    store.put_fact(Durable("prepared", 0, 2, b"a vote that never left"))
    with pytest.raises(StoreFull, match="UNIQUE"):
        store.put_block(2, stored(2))
    assert [fact.seq for fact in store.facts()] == [1]
    store.put_fact(Durable("prepared", 0, 3, b"the next transaction"))
    store.commit()
    assert [fact.seq for fact in store.facts()] == [1, 3]
    store.close()


def test_a_store_is_untouched_until_its_first_commit(tmp_path: Path) -> None:
    for _ in range(2):
        store = sqlite(tmp_path)
        assert store.untouched
        store.close()
    store = sqlite(tmp_path)
    store.put_block(1, stored(1))
    store.close()
    assert not sqlite(tmp_path).untouched


def test_an_empty_database_beside_a_mark_is_damage(tmp_path: Path) -> None:
    filled(tmp_path, 3).unlink()
    with pytest.raises(Damaged, match="empty, but commit 3 was made"):
        sqlite(tmp_path)


def test_a_copy_that_lacks_the_last_commit_only_is_damage(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    files = [tmp_path / f"ledger.db{suffix}" for suffix in ("", "-wal")]
    older = []
    for seq in (1, 2):
        older = [file.read_bytes() for file in files] if seq == 2 else []
        store.put_fact(Durable("prepared", 0, seq, b"a vote that left"))
        store.commit()
    store.close()
    for file, data in zip(files, older, strict=True):
        file.write_bytes(data)
    with pytest.raises(Damaged, match="holds commit 1, but 2 was made"):
        sqlite(tmp_path)


def test_a_number_of_the_host_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    assert store.noted("abstention") is None
    store.note("abstention", 7)
    store.note("abstention", 8)
    assert store.noted("abstention") == 8
    store.note("abstention", None)
    assert store.noted("abstention") is None
    store.close()
    assert sqlite(tmp_path).noted("abstention") is None


def test_what_is_damaged_goes_aside_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert not moved_aside(path)
    for number in (1, 2, 3):
        for suffix in ("", "-wal", "-shm", ".mark"):
            (tmp_path / f"ledger.db{suffix}").write_text(f"{number}{suffix}")
        (tmp_path / "ledger.db.other").write_text("stays")
        aside = move_aside(path)
        assert aside == tmp_path / f"ledger.db.damaged-{number}"
        for suffix in ("", "-wal", "-shm", ".mark"):
            assert Path(f"{aside}{suffix}").read_text() == f"{number}{suffix}"
            assert not (tmp_path / f"ledger.db{suffix}").exists()
        assert moved_aside(path)
    assert (tmp_path / "ledger.db.other").exists()
    path.write_text("alone")
    assert move_aside(path).read_text() == "alone"


def crashed(directory: Path) -> Path:
    """A good store as a power cut leaves it: the log is not folded in, no shared memory."""
    store = sqlite(directory)
    store.put_fact(Durable("prepared", 0, 1, b"a vote"))
    store.commit()
    left = directory / "left.db"
    for suffix in ("", "-wal", ".mark"):
        shutil.copy(directory / f"ledger.db{suffix}", directory / f"left.db{suffix}")
    store.close()
    return left


def test_a_disk_that_is_full_at_the_start_does_not_make_a_good_store_damaged(
    tmp_path: Path,
) -> None:
    """Damage would be moved aside, and the replica would not vote for long."""
    path = crashed(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(Trouble, match=r"left\.db.*space"):
            SqliteStore(path, GENESIS, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = SqliteStore(path, GENESIS, 2)
    assert [fact.data for fact in again.facts()] == [b"a vote"]
    again.close()


class _FullDisk(sqlite3.Connection):
    """As SQLite sees a disk that has room for one page only."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("PRAGMA max_page_count = 1")


def test_a_disk_that_is_too_full_for_a_new_store_is_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = functools.partial(sqlite3.connect, factory=_FullDisk)
    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.raises(Trouble, match=r"SQLITE_FULL.*space"):
        sqlite(tmp_path)


def test_a_store_that_another_program_holds_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = crashed(tmp_path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", functools.partial(connect, timeout=0))
    with pytest.raises(Trouble, match=r"left\.db.*end what else uses it"):
        SqliteStore(path, GENESIS, 2)
    other.close()
    SqliteStore(path, GENESIS, 2).close()


@pytest.mark.parametrize("room_bytes", [2 * WAL_BYTES, WAL_BYTES, WAL_BYTES // 2])
def test_the_log_has_its_size_from_the_start_if_the_disk_has_room(
    tmp_path: Path, room_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syncing it is then cheaper; without room the store works as well."""
    monkeypatch.setattr(sqlite_store, "WAL_BYTES", WAL_BYTES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        store = sqlite(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log = tmp_path / "ledger.db-wal"
    size = log.stat().st_size
    if room_bytes < WAL_BYTES:
        assert size < room_bytes // 2, "what was filled in is gone again"
    else:
        assert size == WAL_BYTES
    store.put_fact(Durable("prepared", 0, 1, b"a vote"))
    store.commit()
    for suffix in ("", "-wal", ".mark"):  # as a crash would leave them
        shutil.copy(tmp_path / f"ledger.db{suffix}", tmp_path / f"copy.db{suffix}")
    store.close()
    again = SqliteStore(tmp_path / "copy.db", GENESIS, 2)
    assert [fact.data for fact in again.facts()] == [b"a vote"]
    again.close()


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from chain.pbft.effects import Durable
from test_store import sqlite, stored
store = sqlite(Path(sys.argv[1]))
height = store.height
while True:
    height += 1
    store.put_block(height, stored(height))
    store.put_fact(Durable("prepared", 0, height, b"certificate %d" % height))
    store.forget(height - 5)
    store.commit()
    print(height, flush=True)
"""


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    """A writer says each height after committing it; killed anywhere, every said height is
    there, whole, and the file is not taken for damaged."""
    here = Path(__file__).parent
    said = 0
    for life in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(here), str(here.parents[1])],
            stdout=subprocess.PIPE,
        )
        out: IO[bytes] | None = writer.stdout
        assert out is not None
        for _ in range(3 + 17 * life):
            said = int(out.readline())
        os.kill(writer.pid, signal.SIGKILL)
        said = max([said, *[int(line) for line in out.read().split()]])
        writer.wait()
        store = sqlite(tmp_path)
        assert store.height >= said
        assert list(store.blocks(1, said)) == [stored(height) for height in range(1, said + 1)]
        assert {fact.seq for fact in store.facts()} >= set(range(max(said - 3, 1), said + 1))
        store.close()


@settings(max_examples=60)
@given(data=st.binary(max_size=400))
def test_any_file_is_a_ledger_or_damaged(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.db"
    path.write_bytes(data)
    with pytest.raises(Damaged):
        open_readonly(path)
    try:
        store = SqliteStore(path, GENESIS, 2)
    except (Damaged, Trouble):
        return
    assert (store.height, store.facts()) == (0, [])
    store.close()


def test_a_file_with_other_tables_is_no_ledger(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE meta (name, value)")
    connection.commit()
    connection.close()
    with pytest.raises(Damaged, match="does not belong"):
        open_readonly(tmp_path / "other.db")


def test_a_commit_waits_for_the_disk(tmp_path: Path, connections: list[sqlite3.Connection]) -> None:
    """FULL (2): SQLite syncs its log in each commit. NORMAL would leave that for later."""
    store = sqlite(tmp_path)
    assert connections[0].execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()
