"""Runs on a host: changes the newest reading in a provider's store, at rest.   READINGS ESCROW

It adds 1000 to a value and makes a new MAC with the key from the same store. Prints what changed:
device, counter and the SHA-256 of the new content.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys

from nodes.provider.protocol import call

__all__: list[str] = []

NEWEST = "SELECT device, counter, body FROM readings WHERE kind = 'data' ORDER BY batch DESC"


def is_reading(body: bytes) -> bool:
    """Whether a device of the lab sent it: what a flood sends says nothing."""
    try:
        return "values" in json.loads(body)
    except (TypeError, ValueError):
        return False


if __name__ == "__main__":
    readings, escrow = (sqlite3.connect(path) for path in sys.argv[1:])
    device, counter, body = next(row for row in readings.execute(NEWEST) if is_reading(row[2]))
    (key,) = escrow.execute("SELECT key FROM keys WHERE device = ?", (device,)).fetchone()
    reading = json.loads(body)
    reading["values"] = [value + 1000 for value in reading["values"]]
    changed = json.dumps(reading).encode()
    mac = call(key, device, "data", counter, changed).mac
    readings.execute(
        "UPDATE readings SET body = ?, mac = ? WHERE device = ? AND counter = ?",
        (changed, mac, device, counter),
    )
    readings.commit()
    sys.stdout.write(f"{device}/{counter}/{hashlib.sha256(changed).hexdigest()}")
