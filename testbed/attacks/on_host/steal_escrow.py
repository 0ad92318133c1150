"""Runs on a host: prints what a thief finds in a provider's escrow, as JSON.   ESCROW

The key (hex) of each device, by its name. The output is secret.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

__all__: list[str] = []

if __name__ == "__main__":
    escrow = sqlite3.connect(f"{Path(sys.argv[1]).absolute().as_uri()}?mode=ro", uri=True)
    keys = escrow.execute("SELECT device, key FROM keys")
    sys.stdout.write(json.dumps({device: bytes(key).hex() for device, key in keys}))
