"""A verified copy of the ledger in one SQLite file, kept by gateways and by devices.

Only what has been proven final is put in (`chain.client` proves it); this file stores and finds
it again: blocks by height, records by the id of the request that caused them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from chain.errors import Misuse

__all__ = ["CopyError", "LedgerCopy"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (height INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS requests (id BLOB PRIMARY KEY, height INTEGER NOT NULL,
                                     position INTEGER NOT NULL) WITHOUT ROWID;
"""


class CopyError(Exception):
    """The file is damaged or belongs to another network; the message names it and the way out."""


class LedgerCopy:
    """`data` of a block is opaque here. WAL without a sync per block: a copy that loses its newest
    blocks in a power cut fetches them again, nothing else depends on it."""

    def __init__(self, path: Path, network: bytes) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO about VALUES ('network', ?)", (network,))
            found = self._db.execute("SELECT value FROM about WHERE key='network'").fetchone()[0]
            height = self._db.execute("SELECT coalesce(max(height), 0) FROM blocks").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise CopyError(
                f"{path}: {error}; delete it, the copy will be fetched again"
            ) from error
        if found != network:
            raise CopyError(f"{path}: of another network; delete it or use another file")
        self._height: int = height

    @property
    def height(self) -> int:
        """Of the newest block, 0 if there is none."""
        return self._height

    def append(self, height: int, data: bytes, requests: Sequence[bytes]) -> None:
        """Store the next block; `requests` are its records' request ids, in order."""
        if height != self._height + 1:
            raise Misuse(f"block {height} after {self._height}")
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("INSERT INTO blocks VALUES (?, ?)", (height, data))
            self._db.executemany(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?)",
                [(request, height, position) for position, request in enumerate(requests)],
            )
        self._height = height

    def blocks(self, start: int, stop: int) -> list[bytes]:
        """Heights start..stop (inclusive) as far as they are there, in order."""
        rows = self._db.execute(
            "SELECT data FROM blocks WHERE height BETWEEN ? AND ? ORDER BY height", (start, stop)
        )
        return [row[0] for row in rows]

    def find(self, request: bytes) -> tuple[int, int] | None:
        """(height, position in the block) of a request's record."""
        row = self._db.execute(
            "SELECT height, position FROM requests WHERE id = ?", (request,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def close(self) -> None:
        self._db.close()
