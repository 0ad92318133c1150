"""Final blocks in one SQLite file, kept by gateways and by devices.

Only what has been proven final is put in (`chain.client` proves it, and proves it again when it is
read back); this file stores and finds it: blocks by height, records by their request's id.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from chain.canonical import Codec
from chain.client import RANGE_BLOCKS_MAX, RANGE_BYTES_MAX, BlockRange, SealedBlock
from chain.errors import Misuse, PeerFault

__all__ = ["BlockStore", "BlockStoreError"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (height INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS requests (id BLOB PRIMARY KEY, height INTEGER NOT NULL,
                                     position INTEGER NOT NULL) WITHOUT ROWID;
"""


class BlockStoreError(Exception):
    """The file is damaged or belongs to another network; the message names it and the way out."""


_codec: Codec[SealedBlock] = Codec(SealedBlock, 4 * RANGE_BYTES_MAX)


class BlockStore:
    """WAL without a sync per block: a copy that loses its newest blocks in a power cut fetches
    them again, nothing else depends on it."""

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
            raise BlockStoreError(
                f"{path}: {error}; delete it, the copy will be fetched again"
            ) from error
        if found != network:
            raise BlockStoreError(f"{path}: of another network; delete it or use another file")
        self._height: int = height

    @property
    def height(self) -> int:
        """Of the newest block, 0 if there is none."""
        return self._height

    def append(self, height: int, block: SealedBlock, requests: Sequence[bytes] = ()) -> None:
        """Store the next block; `requests` are its records' request ids, in order."""
        if height != self._height + 1:
            raise Misuse(f"block {height} after {self._height}")
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("INSERT INTO blocks VALUES (?, ?)", (height, _codec.encode(block)))
            self._db.executemany(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?)",
                [(request, height, position) for position, request in enumerate(requests)],
            )
        self._height = height

    def blocks(self, start: int, stop: int) -> Iterator[SealedBlock]:
        """Heights start..stop (inclusive) as far as they are there, in order.

        Raises BlockStoreError for what cannot be read any more.
        """
        rows = self._db.execute(
            "SELECT data FROM blocks WHERE height BETWEEN ? AND ? ORDER BY height", (start, stop)
        )
        for (data,) in rows:
            try:
                yield _codec.decode(data)
            except PeerFault as fault:
                raise BlockStoreError(f"{self._path}: {fault}; delete it") from fault

    def range(self, start: int, bytes_max: int, bodies: bool) -> BlockRange:
        """Blocks from `start` on, as many as fit into `bytes_max` (at least one if there is)."""
        taken: list[SealedBlock] = []
        size = 0
        for block in self.blocks(start, start + RANGE_BLOCKS_MAX - 1):
            each = block if bodies else SealedBlock(head=block.head, seals=block.seals)
            size += len(_codec.encode(each))
            if taken and size > bytes_max:
                break
            taken.append(each)
        return BlockRange(start=start, blocks=tuple(taken))

    def find(self, request: bytes) -> tuple[int, int] | None:
        """(height, position in the block) of a request's record."""
        row = self._db.execute(
            "SELECT height, position FROM requests WHERE id = ?", (request,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def close(self) -> None:
        self._db.close()
