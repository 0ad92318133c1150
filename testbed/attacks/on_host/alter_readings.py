"""Runs on a host: changes the newest reading in a provider's store, at rest.   READINGS ESCROW

It adds 1000 to a value and makes a new MAC with the key from the same store. Prints what changed:
device, counter and the SHA-256 of the new content; nothing if there is no reading of a sensor. (A
device may send anything, for example a flood of random bytes.)
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys

from nodes.provider.protocol import call

__all__: list[str] = []

NEWEST = "SELECT device, counter, body FROM readings WHERE kind = 'data' ORDER BY batch DESC"


def altered(body: bytes) -> bytes | None:
    """The same reading with other values; None if it is not a sensor's."""
    try:
        reading = json.loads(body)
    except ValueError:
        return None
    if not isinstance(reading, dict) or "values" not in reading:
        return None
    reading["values"] = [value + 1000 for value in reading["values"]]
    return json.dumps(reading).encode()


if __name__ == "__main__":
    readings, escrow = (sqlite3.connect(path) for path in sys.argv[1:])
    for device, counter, body in readings.execute(NEWEST):
        changed = altered(body)
        if changed is not None:
            (key,) = escrow.execute("SELECT key FROM keys WHERE device = ?", (device,)).fetchone()
            mac = call(key, device, "data", counter, changed).mac
            change = "UPDATE readings SET body = ?, mac = ? WHERE device = ? AND counter = ?"
            readings.execute(change, (changed, mac, device, counter))
            readings.commit()
            sys.stdout.write(f"{device}/{counter}/{hashlib.sha256(changed).hexdigest()}")
            break
