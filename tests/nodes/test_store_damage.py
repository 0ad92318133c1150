"""What is damaged on disk is found, never read as something else, and goes aside as a whole."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.pbft.effects import Durable
from nodes.exits import Trouble
from nodes.replica.ledger_file import (
    SCHEMA,
    Damaged,
    block_sum,
    checked_facts,
    fact_sum,
    open_readonly,
)
from nodes.replica.sqlite_store import SqliteStore, mark_path, move_aside, moved_aside
from tests.nodes.store_support import GENESIS, filled, sqlite, stored

pytestmark = pytest.mark.usefixtures("short_log")


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
