"""A store on disk with what tests put into it: blocks and facts that are known by their height."""

from __future__ import annotations

from pathlib import Path

from chain.block import HEAD_BYTES, Block, Record
from chain.keys import SIGNATURE_BYTES
from chain.pbft.effects import Durable
from nodes.ports import Stored
from nodes.replica.sqlite_store import SqliteStore

__all__ = ["GENESIS", "filled", "sqlite", "stored"]

GENESIS = b"genesis"


def stored(height: int, records: int = 2) -> Stored:
    head = height.to_bytes(8, "big") * (HEAD_BYTES // 8)
    body = tuple(Record(b"leaf %d" % n, b"item %d" % height) for n in range(records))
    return Stored(Block(head, body), bytes([height % 256]) * SIGNATURE_BYTES)


def sqlite(path: Path) -> SqliteStore:
    return SqliteStore(path / "ledger.db", GENESIS, 2)


def filled(directory: Path, heights: int = 40) -> Path:
    store = sqlite(directory)
    for height in range(1, heights + 1):
        store.put_block(height, stored(height))
        store.put_fact(Durable("prepared", 0, height, b"certificate %d" % height))
        store.commit()
    store.close()
    return store.path
