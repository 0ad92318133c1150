"""Runs on a host as a unit, with the same service manager and hardening as our processes.

It imports the modules of a replica, writes with SQLite, and then writes health/ok; see `install`.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import nodes.replica.process  # noqa: F401 - the import itself is the test
from chain.keys import digest

__all__ = ["main"]

STAYS_S = 60
"""It ends by itself after this time, which is long enough to be seen."""


def main() -> None:
    """Write all files that a process writes, then wait."""
    with sqlite3.connect("health/probe.sqlite") as base:
        base.execute("pragma journal_mode=wal")
        base.execute("create table if not exists t (x)")
    new = Path("health/ok.new")
    new.write_text(digest(b"").hex())
    new.rename("health/ok")
    time.sleep(STAYS_S)


if __name__ == "__main__":
    main()
