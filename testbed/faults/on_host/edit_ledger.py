"""Runs on a host: damages the ledger of a stopped replica.   VERB LEDGER SEED [MORE]

    flip                  one bit of one block
    truncate              cut off somewhere
    tear                  the end of the write-ahead log is as after a torn write
    rehash KEY            one block is changed, and all above are made again and signed
    rollback OLD [mark]   an older copy; with `mark` the number of its last commit is put back too
    wipe                  gone, with all that belongs to it
    snapshot OLD          damages nothing: makes the copy for `rollback`

Prints what it did, as JSON.
"""

from __future__ import annotations

import glob
import json
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chain.block import Block
    from chain.ledger.ledger import Ledger

__all__: list[str] = []

Did = dict[str, object]
UNIQUE_FROM = {"head": 44, "signature": 0}  # where the part begins that only this block has
_FRAME_HEADER_BYTES = 24
_WAL_HEADER_BYTES = 32
_SALT = slice(8, 16)  # of a frame's header
_WAL_SALT = slice(16, 24)
_COMMIT = slice(4, 8)  # of a frame's header: not zero in the last frame of a transaction


def fold(path: Path) -> None:
    """Moves the write-ahead log into the database file."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def height_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT coalesce(max(height), 0) FROM blocks").fetchone()[0])


def flip(path: Path, rng: random.Random) -> Did:
    with closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM")  # unused pages of the file contain old copies of rows
    fold(path)
    height = rng.randrange(height_of(path)) + 1
    field = rng.choice(sorted(UNIQUE_FROM))
    query = f"SELECT {field} FROM blocks WHERE height = ?"  # noqa: S608 - one of two names
    with closing(sqlite3.connect(path)) as db:
        (wanted,) = db.execute(query, (height,)).fetchone()
    content = bytearray(path.read_bytes())
    # A row may be split over two pages. Then at least one of two pieces is whole.
    first = UNIQUE_FROM[field]
    pieces = (wanted[first : first + 16], wanted[first + 16 : first + 32])
    at = max(content.find(piece) for piece in pieces) + rng.randrange(16)
    bit = rng.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return {"height": height, "field": field, "offset": at, "bit": bit}


def truncate(path: Path, rng: random.Random) -> Did:
    fold(path)
    size = path.stat().st_size
    left = rng.randrange(size // 4, size)
    os.truncate(path, left)
    return {"bytes_before": size, "bytes": left}


def tear(path: Path, rng: random.Random) -> Did:
    """Damages half of the last page of the last transaction but one, so it is lost with all after
    it. (The last transaction may not have been reported as done yet.)"""
    log = path.with_name(f"{path.name}-wal")
    content = bytearray(log.read_bytes())
    page_bytes = int.from_bytes(content[8:12], "big")
    frame_bytes = _FRAME_HEADER_BYTES + page_bytes
    ends, at = [_WAL_HEADER_BYTES] * 2, _WAL_HEADER_BYTES
    while at + frame_bytes <= len(content):
        header = content[at : at + _FRAME_HEADER_BYTES]
        if header[_SALT] != content[_WAL_SALT]:
            break
        if any(header[_COMMIT]):
            ends = [ends[1], at]
        at += frame_bytes
    cut = ends[0] + _FRAME_HEADER_BYTES + rng.randrange(page_bytes // 8, page_bytes // 2)
    end = ends[0] + frame_bytes
    content[cut:end] = bytes(byte ^ 0xFF for byte in content[cut:end])
    log.write_bytes(content)
    return {"frame": (ends[0] - _WAL_HEADER_BYTES) // frame_bytes, "bytes_lost": end - cut}


def rehash(path: Path, rng: random.Random, key: str) -> Did:
    # Only this verb needs them, and a busy host needs seconds to import them.
    from chain.genesis import Genesis  # noqa: PLC0415
    from chain.keys import Es256, Es256Signer  # noqa: PLC0415
    from chain.ledger.ledger import Ledger  # noqa: PLC0415
    from nodes.keygen import load_key  # noqa: PLC0415
    from nodes.replica.ledger_file import (  # noqa: PLC0415
        block_sum,
        encode_records,
        open_readonly,
    )

    fold(path)
    with open_readonly(path) as file:
        ledger, stored = Ledger(Genesis.decode(file.genesis), Es256()), list(file.blocks())
    height = rng.randrange(len(stored)) + 1
    signer = Es256Signer(load_key(Path(key)))
    for each in stored[: height - 1]:
        ledger.append(each.block, check_signatures=False)
    with closing(sqlite3.connect(path)) as db, db:
        for number, each in enumerate(stored[height - 1 :], height):
            block = again(ledger, each.block, change=number == height)
            records, signature = encode_records(block), signer.sign(block.head)
            total = block_sum(number, block.head, records, signature)
            db.execute(
                "UPDATE blocks SET head = ?, records = ?, signature = ?, sum = ? WHERE height = ?",
                (block.head, records, signature, total, number),
            )
    return {"height": height, "blocks": len(stored) - height + 1}


def again(ledger: Ledger, block: Block, *, change: bool) -> Block:
    """Makes the block again on another parent. `change`: without its last record, and a microsecond
    later."""
    from chain.block import Head  # noqa: PLC0415
    from chain.pbft.messages import Proposal  # noqa: PLC0415

    head = Head.decode(block.head)
    items = tuple(record.item for record in block.records)
    if change:
        items = items[:-1]
    time_us = head.time_us + change
    proposal = Proposal(head.height, time_us, head.view, items)
    return ledger.execute(proposal, [ledger.open(item) for item in items], head.epoch)


def rollback(path: Path, _rng: random.Random, old: str, mark: str = "") -> Did:
    before = height_of(path)
    remove(path, keep_mark=True)
    shutil.copy(old, path)
    if mark:
        shutil.copy(f"{old}.mark", mark_of(path))
    return {"height_before": before, "height": height_of(path)}


def snapshot(path: Path, _rng: random.Random, old: str) -> Did:
    Path(old).unlink(missing_ok=True)
    shutil.copy(mark_of(path), f"{old}.mark")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(old)) as copy:
        source.backup(copy)
    return {}


def mark_of(path: Path) -> Path:
    """The file with the number of the last commit."""
    return path.with_name(f"{path.name}.mark")


def wipe(path: Path, _rng: random.Random) -> Did:
    before = height_of(path)
    remove(path, keep_mark=False)
    for aside in path.parent.glob(f"{glob.escape(path.name)}.damaged-*"):
        aside.unlink()
    return {"height_before": before}


def remove(path: Path, *, keep_mark: bool) -> None:
    for suffix in ("", "-wal", "-shm", *(() if keep_mark else (".mark",))):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


VERBS: dict[str, Callable[..., Did]] = {
    each.__name__: each for each in (flip, truncate, tear, rehash, rollback, snapshot, wipe)
}

if __name__ == "__main__":
    verb, ledger_path, seed, *more = sys.argv[1:]
    if verb != "tear" and height_of(Path(ledger_path)) == 0:
        raise SystemExit("it holds no block that could be damaged")
    did = VERBS[verb](Path(ledger_path), random.Random(seed), *more)  # noqa: S311 - repeatable
    print(json.dumps(did))  # noqa: T201 - this is its answer
