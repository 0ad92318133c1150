"""The layout of a replica's database, and reading it without a replica.

    meta    name, value           "genesis" (the document's bytes), "replica" (its id), "schema"
    blocks  height, head, records, signature (the replica's own, over the head), sum
    pruned  the same, of older blocks: an option of the lab (`chain.ledger.pruning`)
    facts   kind, seq, view, data, sum    what the consensus core made durable

`records` is MessagePack of the block's records. `sum` is a CRC-32 over the row: it finds flipped
bits early and names the row. It proves nothing; proofs start at the genesis. `sqlite_store` writes.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from chain.block import Block, Record
from chain.pbft.effects import Durable, FactKind
from nodes.ports import Stored

__all__ = [
    "BLOCK_ROWS",
    "CREATE",
    "FACT_ROWS",
    "SCHEMA",
    "Damaged",
    "LedgerFile",
    "block_of",
    "block_sum",
    "checked_blocks",
    "checked_facts",
    "encode_records",
    "fact_sum",
    "open_readonly",
]

SCHEMA = "testbed.ledger/1"
CREATE = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    height INTEGER PRIMARY KEY, head BLOB, records BLOB, signature BLOB, sum INTEGER);
CREATE TABLE IF NOT EXISTS pruned (
    height INTEGER PRIMARY KEY, head BLOB, records BLOB, signature BLOB, sum INTEGER);
CREATE TABLE IF NOT EXISTS facts (kind TEXT, seq INTEGER, view INTEGER, data BLOB, sum INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS fact ON facts (kind, seq, view);
"""
META_ROWS_MAX = 64
ROW_BYTES_MIN = 64  # of a block and of a fact: a head, a signed message
# Pruned blocks have a table of their own, so that whole pages become free and are used again.
BLOCK_ROWS = (
    "SELECT height, head, records, signature, sum "
    "FROM (SELECT * FROM pruned UNION ALL SELECT * FROM blocks)"
)
FACT_ROWS = "SELECT kind, view, seq, data, sum FROM facts"
_records_decoder = msgspec.msgpack.Decoder(tuple[Record, ...])
_records_encoder = msgspec.msgpack.Encoder()


class Damaged(Exception):
    """The file was changed since it was written: a flipped bit, a cut, an older copy."""


def encode_records(block: Block) -> bytes:
    return _records_encoder.encode(block.records)


def block_sum(height: int, head: bytes, records: bytes, signature: bytes) -> int:
    return zlib.crc32(signature, zlib.crc32(records, zlib.crc32(head, height & 0xFFFFFFFF)))


def fact_sum(kind: str, view: int, seq: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(f"{kind}/{view}/{seq}".encode()))


def block_of(head: bytes, records: bytes) -> Block:
    """Raises Damaged."""
    try:
        return msgspec.convert((head, _records_decoder.decode(records)), type=Block)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"a block's bytes: {error}") from error


def checked_blocks(rows: Iterator[tuple[object, ...]], first: int) -> Iterator[Stored]:
    """Blocks of consecutive heights from `first` on. Raises Damaged, naming height and field."""
    for expected, (height, head, records, signature, total) in enumerate(rows, first):
        if height != expected:
            raise Damaged(f"block {expected} is missing (found {height})")
        if not (
            isinstance(head, bytes) and isinstance(records, bytes) and isinstance(signature, bytes)
        ):
            raise Damaged(f"block {expected}: a field is not bytes")
        if block_sum(expected, head, records, signature) != total:
            raise Damaged(f"block {expected}: its checksum does not match")
        yield Stored(block_of(head, records), signature)


def checked_facts(rows: Iterator[tuple[object, ...]]) -> Iterator[Durable]:
    """Raises Damaged, naming the fact."""
    for kind, view, seq, data, total in rows:
        if not (
            isinstance(kind, str)
            and isinstance(view, int)
            and isinstance(seq, int)
            and isinstance(data, bytes)
            and fact_sum(kind, view, seq, data) == total
        ):
            raise Damaged(f"fact {kind!r} of view {view!r}, sequence {seq!r}: its checksum")
        try:
            yield Durable(msgspec.convert(kind, FactKind), view, seq, data)
        except msgspec.ValidationError as error:
            raise Damaged(f"fact of an unknown kind: {kind!r}") from error


class LedgerFile:
    """A replica's database, for reading only. Sees what was committed when each read begins.

    Reads raise Damaged; nothing is verified beyond checksums: see `chain.ledger.ledger` for that.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._rows_max = _bytes(path) // ROW_BYTES_MIN
        try:
            _expect_our_layout(path, connection)
            meta = dict(
                connection.execute("SELECT name, value FROM meta LIMIT ?", (META_ROWS_MAX,))
            )
            if meta.get("schema") != SCHEMA:
                raise Damaged(f"{path}: schema {meta.get('schema')!r}, this program reads {SCHEMA}")
            self.genesis: bytes = meta["genesis"]
            self.replica = int(meta["replica"])
        except (sqlite3.DatabaseError, KeyError, ValueError, TypeError) as error:
            raise Damaged(f"{path}: not a replica's ledger ({error})") from error

    @property
    def height(self) -> int:
        try:
            row = self._db.execute("SELECT max(height) FROM blocks").fetchone()
        except sqlite3.DatabaseError as error:
            raise Damaged(f"{self.path}: {error}") from error
        return row[0] or 0

    def blocks(self, start: int = 1) -> Iterator[Stored]:
        """Blocks from `start` on with this replica's signature over each head."""
        yield from checked_blocks(self._blocks(start), start)

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Height, head, records, signature and sum of each block as the file has them, unchecked:
        for a verifier that names the exact field."""
        return self._blocks(0)

    def _blocks(self, start: int) -> Iterator[tuple[object, ...]]:
        return self._bounded(f"{BLOCK_ROWS} WHERE height >= ? ORDER BY height", start)

    def _bounded(self, query: str, *values: object) -> Iterator[tuple[object, ...]]:
        """The rows, as many as the file has bytes for: a file whose pages refer to each other in
        circles has no end."""
        try:
            for number, row in enumerate(self._db.execute(query, values)):
                if number > self._rows_max:
                    raise Damaged(f"{self.path}: more rows than its bytes can hold")
                yield row
        except sqlite3.DatabaseError as error:
            raise Damaged(f"{self.path}: {error}") from error

    def stable(self) -> Iterator[Durable]:
        """The checkpoints with their proofs, ascending."""
        yield from checked_facts(self._bounded(f"{FACT_ROWS} WHERE kind = 'stable' ORDER BY seq"))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_readonly(path: Path) -> LedgerFile:
    """Opens a ledger, running or not. Raises FileNotFoundError and Damaged."""
    if not path.is_file():
        raise FileNotFoundError(path)
    uri = path.absolute().as_uri()
    try:
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError:
            # A read-only medium: there is no place for the shared-memory file beside it.
            connection.close()
            connection = sqlite3.connect(f"{uri}?immutable=1", uri=True)
        return LedgerFile(path, connection)
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{path}: {error}") from error


def _bytes(path: Path) -> int:
    """The size of the database and of its write-ahead log."""
    parts = (path, path.with_name(f"{path.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())


def _expect_our_layout(path: Path, connection: sqlite3.Connection) -> None:
    """Raises Damaged unless the file has ours and nothing else.

    A view in place of a table may show each reader something else, or never end; a trigger or a
    computed column may run what its author likes.
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    wanted = {_without_spaces(each) for each in CREATE.split(";") if each.strip()}
    found = connection.execute("SELECT type, name, sql FROM sqlite_schema LIMIT 16").fetchall()
    for kind, name, sql in found:
        if not isinstance(sql, str) or _without_spaces(sql) not in wanted:
            raise Damaged(f"{path}: {kind} {name!r} does not belong in a replica's ledger")


def _without_spaces(statement: str) -> str:
    return "".join(statement.split()).replace("IFNOTEXISTS", "")
