"""An index of the records of each identity and request in the operator's verified copy.

Every command adds the blocks that are new since the last command, so the cost of a look-up does not
grow with the age of the ledger. The blocks themselves are in the copy (`nodes.device.ledger_sync`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from chain.keys import digest
from chain.ledger.statement import Statement, decode_leaf
from chain.proofs.client import SealedBlock
from nodes.device.ledger_sync import LedgerSync

__all__ = ["RecordIndex"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS heads (height INTEGER PRIMARY KEY, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS places (request BLOB PRIMARY KEY, height INTEGER NOT NULL,
                                   position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS others (node BLOB, height INTEGER, position INTEGER,
                                   PRIMARY KEY (node, height, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS readings (node BLOB PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""
_COUNT = """
INSERT INTO readings VALUES (?, 1) ON CONFLICT (node) DO UPDATE SET count = count + 1
"""


class RecordIndex:
    """Call `update` when the copy has new blocks. Raises BlockStoreError if the copy differs from
    what was verified, and sqlite3.Error."""

    def __init__(self, path: Path, sync: LedgerSync) -> None:
        self._sync = sync
        self._db = sqlite3.connect(path)
        self._db.executescript(_SCHEMA)

    def update(self) -> None:
        (height,) = self._db.execute("SELECT coalesce(max(height), 0) FROM heads").fetchone()
        with self._db:  # all blocks, or none if one differs from what was verified
            for number, sealed in enumerate(self._sync.sealed(height + 1), height + 1):
                self._add(number, sealed)

    def _add(self, height: int, sealed: SealedBlock) -> None:
        self._db.execute("INSERT INTO heads VALUES (?, ?)", (height, digest(sealed.head)))
        for position, record in enumerate(sealed.records or ()):
            statement = decode_leaf(record.leaf)
            place = (height, position)
            added = "INSERT OR IGNORE INTO places VALUES (?, ?, ?)"
            self._db.execute(added, (statement.request, *place))
            if statement.op == "data":
                self._db.execute(_COUNT, (statement.node,))
                continue
            for node in {statement.node, statement.by} - {None}:
                self._db.execute("INSERT INTO others VALUES (?, ?, ?)", (node, *place))

    def find(self, request: bytes) -> tuple[SealedBlock, int] | None:
        """The height of the block with a request's record, and the record's position in it."""
        query = "SELECT height, position FROM places WHERE request = ?"
        for height, position in self._db.execute(query, (request,)):
            return self._block(height), position
        return None

    def others(self, node: bytes) -> list[tuple[int, Statement]]:
        """(height, record) of all records except data that are about a node or signed by it, in
        order."""
        query = "SELECT height, position FROM others WHERE node = ? ORDER BY height, position"
        return [
            (height, decode_leaf((self._block(height).records or ())[position].leaf))
            for height, position in self._db.execute(query, (node,))
        ]

    def readings(self, node: bytes) -> int:
        """How many data records are about a node."""
        row = self._db.execute("SELECT count FROM readings WHERE node = ?", (node,)).fetchone()
        return row[0] if row else 0

    def _block(self, height: int) -> SealedBlock:
        query = "SELECT digest FROM heads WHERE height = ?"
        (wanted,) = self._db.execute(query, (height,)).fetchone()
        return self._sync.block(height, wanted)

    def close(self) -> None:
        self._db.close()
