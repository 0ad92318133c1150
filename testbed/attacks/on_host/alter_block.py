"""Runs on a host: changes the newest record in a replica's ledger, at rest.   LEDGER

It changes one byte of what a device signed, and fixes the row's checksum. Prints what was changed:
the height and the SHA-256 of the new body; nothing if no block has a record.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys

import msgspec

from chain.block import Record
from nodes.replica.ledger_file import block_sum

__all__: list[str] = []

NEWEST = "SELECT height, head, records, signature FROM blocks ORDER BY height DESC"


def altered(body: bytes) -> bytes | None:
    """The same records, but a byte in the middle of the first is changed; None if there is no
    record."""
    records = msgspec.msgpack.decode(body, type=list[Record])
    if not records:
        return None
    item = bytearray(records[0].item)
    item[len(item) // 2] ^= 1
    records[0] = msgspec.structs.replace(records[0], item=bytes(item))
    return msgspec.msgpack.encode(records)


if __name__ == "__main__":
    ledger = sqlite3.connect(sys.argv[1])
    for height, head, body, signature in ledger.execute(NEWEST):
        changed = altered(body)
        if changed is not None:
            total = block_sum(height, head, changed, signature)
            change = "UPDATE blocks SET records = ?, sum = ? WHERE height = ?"
            ledger.execute(change, (changed, total, height))
            ledger.commit()
            sys.stdout.write(f"{height}/{hashlib.sha256(changed).hexdigest()}")
            break
