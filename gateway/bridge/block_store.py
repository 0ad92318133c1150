"""Final blocks in one SQLite file, for gateways and devices.

This module stores and finds them: blocks by height, records by request id. It does not verify:
`chain.proofs.client` proves blocks final before they are stored and after they are read.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from chain.canonical import Codec
from chain.errors import Misuse, PeerFault
from chain.ledger.pruning import prune
from chain.proofs.client import RANGE_BLOCKS_MAX, RANGE_BYTES_MAX, SealedBlock
from chain.proofs.proof import Inclusion
from gateway.refusing import LocalFault

__all__ = ["BlockStore", "BlockStoreError"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (height INTEGER PRIMARY KEY, head BLOB NOT NULL,
                                   data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pruned (height INTEGER PRIMARY KEY, head BLOB NOT NULL,
                                   data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS epochs (number INTEGER PRIMARY KEY, step BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS requests (id BLOB PRIMARY KEY, height INTEGER NOT NULL,
                                     position INTEGER NOT NULL) WITHOUT ROWID;
"""


class BlockStoreError(LocalFault):
    """The file is damaged or of another network. The message names it and says what to do."""


_steps: Codec[Inclusion] = Codec(Inclusion, RANGE_BYTES_MAX)
_codec: Codec[SealedBlock] = Codec(SealedBlock, 4 * RANGE_BYTES_MAX)
# Pruned blocks have a table of their own, so that whole pages become free and are used again.
_RANGE = {  # blocks whole, or heads with their seals
    True: "SELECT data FROM (SELECT * FROM pruned UNION ALL SELECT * FROM blocks) "
    "WHERE height >= ? ORDER BY height LIMIT ?",
    False: "SELECT head FROM (SELECT * FROM pruned UNION ALL SELECT * FROM blocks) "
    "WHERE height >= ? ORDER BY height LIMIT ?",
}
_PRUNE_BLOCKS_MAX = 4  # with each new block, so that none takes long
_WAL_BYTES_MAX = 4 * 1024 * 1024  # then `checkpoint` is due
_WAL_PAGES_FORCED = 16 * 1024  # if nobody has called it


class BlockStore:
    """WAL without a sync for each block: a copy that loses its newest blocks in a power cut fetches
    them again. `sync` makes what was stored so far durable. Only the newest `keep_data_blocks` keep
    the items of data (`chain.ledger.pruning`); None: all do."""

    def __init__(self, path: Path, network: bytes, keep_data_blocks: int | None = None) -> None:
        self._path = path
        self._keep_data_blocks = keep_data_blocks
        with self._named_errors():
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES_FORCED}")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO about VALUES ('network', ?)", (network,))
            found = self._db.execute("SELECT value FROM about WHERE key='network'").fetchone()[0]
            height = self._db.execute("SELECT coalesce(max(height), 0) FROM blocks").fetchone()[0]
            pruned = self._db.execute("SELECT coalesce(max(height), 0) FROM pruned").fetchone()[0]
        if found != network:
            raise BlockStoreError(f"{path}: of another network; delete it or use another file")
        self.height: int = height  # of the newest block, 0 if there is none
        self._pruned: int = pruned

    def append(self, height: int, block: SealedBlock, requests: Sequence[bytes] = ()) -> None:
        """Stores the next block. `requests` are the request ids of its records, in order.

        Raises BlockStoreError.
        """
        if height != self.height + 1:
            raise Misuse(f"block {height} after {self.height}")
        with self._named_errors(), self._db:
            self._db.execute("BEGIN")
            self._db.execute("INSERT INTO blocks VALUES (?, ?, ?)", _row(height, block))
            self._db.executemany(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?)",
                [(request, height, position) for position, request in enumerate(requests)],
            )
            self._prune(height)
        self.height = height

    def _prune(self, height: int) -> None:
        """Prunes what is old enough after block `height`, at most a few blocks at once."""
        if self._keep_data_blocks is None:
            return
        start = self._pruned + 1
        stop = min(height - self._keep_data_blocks, self._pruned + _PRUNE_BLOCKS_MAX)
        for old, sealed in enumerate(list(self.blocks(start, stop)), start):
            self._db.execute("DELETE FROM blocks WHERE height = ?", (old,))
            self._db.execute(
                "INSERT INTO pruned VALUES (?, ?, ?)", _row(old, _without_data(sealed))
            )
            self._pruned = old

    def blocks(self, start: int, stop: int) -> Iterator[SealedBlock]:
        """The stored blocks of the heights start..stop (inclusive), in order.

        Raises BlockStoreError if one cannot be read.
        """
        with self._named_errors():
            rows = self._db.execute(
                "SELECT data FROM (SELECT * FROM pruned UNION ALL SELECT * FROM blocks) "
                "WHERE height BETWEEN ? AND ? ORDER BY height",
                (start, stop),
            )
            for (data,) in rows:
                yield _codec.decode(data)

    @property
    def epochs(self) -> tuple[Inclusion, ...]:
        """The kept proofs of membership changes, in order. Raises BlockStoreError."""
        with self._named_errors():
            rows = self._db.execute("SELECT step FROM epochs ORDER BY number")
            return tuple(_steps.decode(step) for (step,) in rows)

    def keep_epochs(self, steps: Sequence[Inclusion]) -> None:
        """Needed for heads without bodies, which do not show the changes. Call it before the heads
        of the next epoch are stored. `steps` are all changes, in order. Raises BlockStoreError."""
        with self._named_errors():
            (kept,) = self._db.execute("SELECT count(*) FROM epochs").fetchone()
            for number, step in enumerate(steps[kept:], kept):
                self._db.execute("INSERT INTO epochs VALUES (?, ?)", (number, _steps.encode(step)))

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (PeerFault, sqlite3.DatabaseError) as error:
            raise self.damaged(error) from error

    def damaged(self, error: Exception) -> BlockStoreError:
        """The error to raise when stored blocks are damaged, or the disk is full."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return BlockStoreError(f"{self._path}: {error}; free some space")
        return BlockStoreError(f"{self._path}: {error}; delete it, the copy will be fetched again")

    def range(self, start: int, bytes_max: int, bodies: bool) -> list[bytes]:
        """Encoded `SealedBlock`s from `start` on, as many as fit into `bytes_max`, but at least one
        if there is one. Without `bodies`: heads only.

        Blocks are returned as stored, without decoding, because every device asks for them.
        """
        taken: list[bytes] = []
        size = 0
        for (block,) in self._db.execute(_RANGE[bodies], (start, RANGE_BLOCKS_MAX)):
            if taken and size + len(block) > bytes_max:
                break
            size += len(block)
            taken.append(block)
        return taken

    def checkpoint(self) -> None:
        """Moves a long log into the file. It syncs, so call it off the event loop."""
        if Path(f"{self._path}-wal").stat().st_size >= _WAL_BYTES_MAX:
            self.sync()

    def sync(self) -> None:
        """Moves the log into the file, durably. Call it off the event loop."""
        with contextlib.closing(sqlite3.connect(self._path)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def find(self, request: bytes) -> tuple[int, int] | None:
        """(height, position in the block) of a request's record."""
        row = self._db.execute(
            "SELECT height, position FROM requests WHERE id = ?", (request,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def close(self) -> None:
        self._db.close()


def _row(height: int, block: SealedBlock) -> tuple[int, bytes, bytes]:
    head = SealedBlock(head=block.head, seals=block.seals)
    return height, _codec.encode(head), _codec.encode(block)


def _without_data(sealed: SealedBlock) -> SealedBlock:
    block = sealed.block
    return (
        sealed if block is None else msgspec.structs.replace(sealed, records=prune(block).records)
    )
