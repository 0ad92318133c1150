"""Reads a stored chain, record by record, whether or not the chain verifies.

A baseline's provider has a file of another layout (`nodes.provider.store`): the readings that it
accepted become the same records, so all figures are made in the same way. The file itself says
which kind it is.

A ledger that does not verify is still evidence. So nothing here raises because of its contents:
records that cannot be decoded are left out, and `ledger` reports them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import msgspec

from chain.block import Head, Record
from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.envelope import read_operation
from chain.ledger.item import Authenticated, cose_of
from chain.ledger.operations import Data, Operation
from chain.ledger.pruning import read_pruned
from chain.ledger.statement import OK, Statement, decode_leaf
from nodes.provider.protocol import request_id
from nodes.provider.store import StoredReading, read_readings
from nodes.replica.ledger_file import Damaged, block_of, open_readonly

__all__ = [
    "Chain",
    "Entry",
    "SentReading",
    "StoredHead",
    "board_readings",
    "read_chain",
    "sent_reading",
]


class SentReading(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a payload that identify a reading (`nodes.device.sender.Reading`)."""

    number: int
    board: str | None = None
    boot: int | None = None


_NONE = bytes(32)
R = TypeVar("R", bound=SentReading)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record: its statement, and the operation that was asked for (None if that cannot be
    read)."""

    height: int
    index: int
    epoch: int
    statement: Statement
    item: bytes
    operation: Operation | None

    @property
    def pruned(self) -> bool:
        """Whether payload and signature are gone."""
        return not self.item

    @property
    def took_effect(self) -> bool:
        return not self.statement.status.startswith("refused:")


class StoredHead(msgspec.Struct, frozen=True, kw_only=True):
    """A head as a replica stores it; `hash` is its SHA-256."""

    height: int
    hash: bytes
    head: Head
    records: int


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's chain. `name` is the file's name without suffix, which is the replica's name;
    `replica` is the replica's number in the file, None if it cannot be read."""

    name: str
    replica: int | None = None
    heads: tuple[StoredHead, ...]
    entries: tuple[Entry, ...]

    @property
    def height(self) -> int:
        return self.heads[-1].height if self.heads else 0


def read_chain(path: Path) -> Chain:
    """Every block that can be decoded, in order."""
    try:
        return _of_provider(path, list(read_readings(path)))
    except sqlite3.Error:
        return _of_replica(path)


def _of_provider(path: Path, readings: list[StoredReading]) -> Chain:
    """A batch counts as a block. No hash links it to others, so all its hashes are zero."""
    heads, entries = [], []
    for batch, found in groupby(readings, key=lambda reading: reading.batch):
        taken = list(found)
        head = Head(_NONE, batch, taken[0].time_us, _NONE, _NONE, _NONE, 0, 0, len(taken))
        heads.append(StoredHead(height=batch, hash=_NONE, head=head, records=len(taken)))
        entries += [_entry(reading, index) for index, reading in enumerate(taken)]
    return Chain(name=path.stem, replica=0, heads=tuple(heads), entries=tuple(entries))


def _entry(reading: StoredReading, index: int) -> Entry:
    statement = Statement(
        network=_NONE,
        op=reading.kind,
        status=OK,
        node=bytes.fromhex(reading.device),
        time_us=reading.time_us,
        request=request_id(reading.device, reading.counter),
        item=_NONE,
        counter=reading.counter or None,  # an enrolment has none
    )
    return Entry(
        height=reading.batch,
        index=index,
        epoch=0,
        statement=statement,
        item=reading.mac + reading.body,
        operation=None,
    )


def _of_replica(path: Path) -> Chain:
    heads: list[StoredHead] = []
    entries: list[Entry] = []
    replica = None
    try:
        with open_readonly(path) as file:
            replica = file.replica
            for height, head, records, _, _ in file.rows():
                if isinstance(height, int) and isinstance(head, bytes):
                    _take(height, head, records, heads, entries)
    except (Damaged, OSError):
        pass  # `ledger` reports it; what was read before counts
    return Chain(name=path.stem, replica=replica, heads=tuple(heads), entries=tuple(entries))


def _take(
    height: int, raw: bytes, records: object, heads: list[StoredHead], entries: list[Entry]
) -> None:
    try:
        head = Head.decode(raw)
        block = block_of(raw, records if isinstance(records, bytes) else b"")
    except (PeerFault, Damaged):
        return
    heads.append(StoredHead(height=height, hash=digest(raw), head=head, records=len(block.records)))
    for index, record in enumerate(block.records):
        try:
            statement = decode_leaf(record.leaf)
        except PeerFault:
            continue
        entries.append(
            Entry(
                height=height,
                index=index,
                epoch=head.epoch,
                statement=statement,
                item=record.item,
                operation=_operation(record, head.network),
            )
        )


def _operation(record: Record, network: bytes) -> Operation | None:
    """None if it cannot be read. Of a pruned record of data all but the payload is known."""
    try:
        if not record.item:
            known = read_pruned(record.leaf, network).operation
            return known.opened.operation if isinstance(known, Authenticated) else None
        return read_operation(cose_of(record.item), network).operation
    except PeerFault:
        return None


def sent_reading(data: Data, kind: type[R]) -> R | None:
    """What the payload says; None if it cannot be read."""
    try:
        return msgspec.json.decode(data.payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def board_readings(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, tuple[str, int, int]]]:
    """Board readings that took effect, each with what identifies it: board, boot, number."""
    for entry in entries:
        if not entry.took_effect or not isinstance(entry.operation, Data):
            continue
        reading = sent_reading(entry.operation, SentReading)
        if reading is not None and reading.board is not None and reading.boot is not None:
            yield entry, (reading.board, reading.boot, reading.number)
