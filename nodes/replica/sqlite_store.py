"""The durable state of a replica, in one SQLite file: facts of the consensus, and the blocks.

Write-ahead log, synchronous FULL: `commit` returns after the data are on the disk. `<name>.mark`
beside the file has the number of the last commit; it is written after the commit and never synced.
If the database has a lower number, commits were lost (an older copy, a deleted log), and the
replica must not vote on it. The mark is also the lock that keeps a second process out.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chain.block import Block
from chain.errors import Misuse
from chain.ledger.pruning import prune
from chain.pbft.effects import Durable, FactKind
from nodes.exits import Trouble
from nodes.ports import FORGETTABLE, PRUNE_BLOCKS_MAX, Stored, StoreFull
from nodes.replica.ledger_file import (
    BLOCK_ROWS,
    CREATE,
    FACT_ROWS,
    SCHEMA,
    Damaged,
    block_sum,
    checked_blocks,
    checked_facts,
    encode_records,
    fact_sum,
)

__all__ = ["WAL_BYTES", "SqliteStore", "move_aside", "moved_aside"]

WAL_PAGES_MAX = 4000  # then the log is folded into the database
WAL_BYTES = WAL_PAGES_MAX * 4120 + 32  # pages with their frame headers: 16 MB
_PUT_FACT = "INSERT OR REPLACE INTO facts (kind, view, seq, data, sum) VALUES (?, ?, ?, ?, ?)"
_PUT_BLOCK = "INSERT INTO blocks (height, head, records, signature, sum) VALUES (?, ?, ?, ?, ?)"
_PUT_PRUNED = "INSERT INTO pruned (height, head, records, signature, sum) VALUES (?, ?, ?, ?, ?)"
_DELETE_BLOCK = "DELETE FROM blocks WHERE height = ?"
_HEADS = (
    "SELECT head FROM (SELECT height, head FROM pruned UNION ALL SELECT height, head FROM blocks) "
    "WHERE height BETWEEN ? AND ? ORDER BY height"
)
_FORGET = "DELETE FROM facts WHERE kind = ? AND seq <= ?"
_COUNT = "UPDATE meta SET value = ? WHERE name = 'commits'"
_MARK = struct.Struct(">QI")
# In one write. The system keeps a file in pieces of the size in which it was written. With 1 MB,
# each sync works on larger pieces, and counts a whole piece as written (`/proc/PID/io`), not 4 KB.
_ZEROS_BYTES = 64 * 1024
_CACHE_KB = 512  # SQLite's own; what is read again is in the system's cache
_WORLDS_FAULT = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
)
_UNREADABLE = (
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_DATA,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)


class SqliteStore:
    """Implements `ports.Store`. One process, one thread at a time.

    Raises on opening: Damaged, Trouble (in use, another network's or replica's, no permission).
    """

    def __init__(self, path: Path, genesis: bytes, replica: int) -> None:
        self.path = path
        self._mark = _lock(mark_path(path))
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._open(genesis, replica)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.DatabaseError as error:
            os.close(self._mark)
            if not _is_damage(error):
                raise Trouble(
                    f"{path}: {error} ({error.sqlite_errorname}); free some space on its disk, or "
                    "end what else uses it"
                ) from error
            raise Damaged(f"{path}: {error}") from error
        except BaseException:
            os.close(self._mark)
            raise

    def _open(self, genesis: bytes, replica: int) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        # On by default in some builds: pages that become free would be written full of zeros.
        db.execute("PRAGMA secure_delete = OFF")
        db.executescript(CREATE)
        expected = {"genesis": genesis, "replica": replica, "schema": SCHEMA}
        meta = dict(db.execute("SELECT name, value FROM meta"))
        if not meta:
            marked = _read_mark(self._mark)
            if marked:
                raise Damaged(f"{self.path}: empty, but commit {marked} was made")
            db.execute("BEGIN")
            db.executemany("INSERT INTO meta VALUES (?, ?)", [*expected.items(), ("commits", 0)])
            db.execute("COMMIT")
            meta = {**expected, "commits": 0}
        for name, value in expected.items():
            if meta.get(name) != value:
                raise Trouble(
                    f"{self.path}: kept for another {name}; move it away or fix the config"
                )
        self._commits = int(meta["commits"])
        self._check()
        row = db.execute("SELECT max(height) FROM blocks").fetchone()
        self._height: int = row[0] or 0
        row = db.execute("SELECT max(height) FROM pruned").fetchone()
        self._pruned: int = row[0] or 0
        self._dirty = False
        _reserve(self.path.with_name(self.path.name + "-wal"))

    def _check(self) -> None:
        marked = _read_mark(self._mark)
        if self._commits < marked:
            raise Damaged(
                f"{self.path}: holds commit {self._commits}, but {marked} was made: an older copy"
            )
        # Blocks prove themselves when they are read; facts are found through an index.
        for check in ("quick_check(1)", "integrity_check(facts)"):
            (verdict,) = self._db.execute(f"PRAGMA {check}").fetchone()
            if verdict != "ok":
                raise Damaged(f"{self.path}: {verdict}")
        for _ in checked_facts(self._db.execute(FACT_ROWS)):
            pass

    def facts(self) -> Sequence[Durable]:
        return list(checked_facts(self._read(f"{FACT_ROWS} ORDER BY kind, view, seq")))

    def fact(self, kind: FactKind, view: int, seq: int) -> Durable | None:
        """Raises Damaged."""
        where = "WHERE kind = ? AND seq = ? AND view = ?"
        return next(checked_facts(self._read(f"{FACT_ROWS} {where}", kind, seq, view)), None)

    def put_fact(self, fact: Durable) -> None:
        kind, view, seq, data = fact.kind, fact.view, fact.seq, fact.data
        self._write(_PUT_FACT, (kind, view, seq, data, fact_sum(kind, view, seq, data)))

    def forget(self, seq: int) -> None:
        for kind in FORGETTABLE:
            self._write(_FORGET, (kind, seq))

    def put_block(self, height: int, stored: Stored) -> None:
        if height != self._height + 1:
            raise Misuse(f"block {height} after {self._height}")
        self._write(_PUT_BLOCK, _row(height, stored.block, stored.signature))
        self._height = height

    def prune(self, stop: int) -> None:
        """Raises Damaged. The file does not shrink, but its free pages are used again."""
        start, stop = self._pruned + 1, min(stop, self._pruned + PRUNE_BLOCKS_MAX)
        if stop < start:
            return
        for height, stored in enumerate(list(self.blocks(start, stop)), start):
            self._write(_DELETE_BLOCK, (height,))
            self._write(_PUT_PRUNED, _row(height, prune(stored.block), stored.signature))
        self._pruned = stop

    @property
    def pruned(self) -> int:
        return self._pruned

    @property
    def height(self) -> int:
        return self._height

    def blocks(self, start: int, stop: int) -> Iterator[Stored]:
        """Raises Damaged."""
        first = max(start, 1)
        rows = self._read(f"{BLOCK_ROWS} WHERE height BETWEEN ? AND ? ORDER BY height", first, stop)
        return checked_blocks(rows, first)

    def heads(self, start: int, stop: int) -> Sequence[bytes]:
        return [head for (head,) in self._read(_HEADS, start, stop)]

    def stable_from(self, seq: int) -> Durable | None:
        rows = self._read(
            f"{FACT_ROWS} WHERE kind = 'stable' AND seq >= ? ORDER BY seq LIMIT 1", seq
        )
        return next(checked_facts(rows), None)

    @property
    def untouched(self) -> bool:
        """True until the first commit ever."""
        return self._commits == 0

    def note(self, name: str, value: int | None) -> None:
        """Keeps a number of the host's own beside the facts; None forgets it."""
        if value is None:
            self._write("DELETE FROM meta WHERE name = ?", (f"note/{name}",))
        else:
            self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"note/{name}", value))

    def noted(self, name: str) -> int | None:
        row = self._db.execute(
            "SELECT value FROM meta WHERE name = ?", (f"note/{name}",)
        ).fetchone()
        return None if row is None else int(row[0])

    def commit(self) -> None:
        if not self._dirty:
            return
        self._write(_COUNT, (self._commits + 1,))
        try:
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._abandon(error)
        self._dirty = False
        self._commits += 1
        number = self._commits.to_bytes(8, "big")
        with contextlib.suppress(OSError):  # a mark that lags does no harm
            os.pwrite(self._mark, number + zlib.crc32(number).to_bytes(4, "big"), 0)

    def close(self) -> None:
        try:
            self.commit()
        finally:
            self._db.close()
            os.close(self._mark)

    def _read(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Raises Damaged, whenever SQLite notices."""
        try:
            for row in self._db.execute(query, values):  # noqa: UP028 - closing must not reach the cursor
                yield row
        except sqlite3.DatabaseError as error:
            raise Damaged(f"{self.path}: {error}") from error

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            if not self._dirty:
                self._db.execute("BEGIN IMMEDIATE")
                self._dirty = True
            self._db.execute(statement, values)
        except sqlite3.DatabaseError as error:
            self._abandon(error)

    def _abandon(self, error: sqlite3.DatabaseError) -> None:
        """Nothing of the transaction stays; the caller must not act on it."""
        with contextlib.suppress(sqlite3.DatabaseError):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._dirty = False
        raise StoreFull(f"{self.path}: {error}") from error


def _row(height: int, block: Block, signature: bytes) -> tuple[object, ...]:
    records = encode_records(block)
    return height, block.head, records, signature, block_sum(height, block.head, records, signature)


def mark_path(path: Path) -> Path:
    return path.with_name(path.name + ".mark")


def move_aside(path: Path) -> Path:
    """Renames a damaged database with what belongs to it; returns where it is now."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm", ".mark"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    return target


def moved_aside(path: Path) -> bool:
    """Whether a damaged predecessor of this database stands beside it."""
    return any(path.parent.glob(f"{glob.escape(path.name)}.damaged-*"))


def _reserve(log: Path) -> None:
    """Fills the write-ahead log up to its usual size with zeros, which SQLite takes for its end.
    Syncing a file that does not grow changes none of the file system's own records, which cost as
    much as the data. On a disk without that room the log grows as usual."""
    with contextlib.suppress(OSError), log.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            for at in range(size, WAL_BYTES, _ZEROS_BYTES):
                file.write(bytes(min(_ZEROS_BYTES, WAL_BYTES - at)))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Trouble(f"{path}: another process is using this store") from error
    return descriptor


def _read_mark(descriptor: int) -> int:
    """0 if there is none yet. Raises Damaged for one that was tampered with or torn."""
    data = os.pread(descriptor, _MARK.size, 0)
    if not data:
        return 0
    if len(data) != _MARK.size:
        raise Damaged("the mark beside the database is cut off")
    number, total = _MARK.unpack(data)
    if zlib.crc32(data[:8]) != total:
        raise Damaged("the mark beside the database is damaged")
    return int(number)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is at fault. A disk without room for the files beside it, or another
    program's lock, must not cost a good store, and with it the right to vote."""
    # Python's own errors, for example about text that is not UTF-8, have no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF == sqlite3.SQLITE_IOERR:
        return code in _UNREADABLE
    return code & 0xFF not in _WORLDS_FAULT
