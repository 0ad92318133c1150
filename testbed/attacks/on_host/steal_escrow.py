"""Runs on a host: prints what a thief finds in a provider's store, as JSON.   ESCROW READINGS

By device: its key (hex) and the highest counter that it used. The output is secret.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

__all__: list[str] = []


def rows(path: str, query: str) -> list[tuple[str, bytes | int]]:
    database = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
    try:
        return list(database.execute(query))
    finally:
        database.close()


if __name__ == "__main__":
    keys = rows(sys.argv[1], "SELECT device, key FROM keys")
    counters = dict(rows(sys.argv[2], "SELECT device, max(counter) FROM readings GROUP BY device"))
    found = {device: (bytes(key).hex(), counters.get(device, 0)) for device, key in keys}
    sys.stdout.write(json.dumps(found))
