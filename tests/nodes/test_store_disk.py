"""What a store on disk survives: a full disk, kill -9, other programs that want the same file."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

from chain.pbft.effects import Durable
from nodes.exits import Trouble
from nodes.ports import StoreFull
from nodes.replica import sqlite_store
from nodes.replica.sqlite_store import WAL_BYTES, SqliteStore
from tests.nodes.store_support import GENESIS, filled, sqlite, stored

pytestmark = pytest.mark.usefixtures("short_log")


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    first = sqlite(tmp_path)
    with pytest.raises(Trouble, match="another process"):
        sqlite(tmp_path)
    first.close()
    sqlite(tmp_path).close()


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


def test_a_commit_waits_for_the_disk(tmp_path: Path, connections: list[sqlite3.Connection]) -> None:
    """FULL (2): SQLite syncs its log in each commit. NORMAL would leave that for later."""
    store = sqlite(tmp_path)
    assert connections[0].execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    """A writer says each height after committing it; killed anywhere, every said height is
    there, whole, and the file is not taken for damaged."""
    said = 0
    for life in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.nodes.store_writer", str(tmp_path)],
            cwd=Path(__file__).parents[2],
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
