"""The provider's two databases: the keys of all devices in escrow, and their readings.

Both are plain SQLite. Each reading is stored with its MAC, so somebody with the keys can find an
altered one. But anybody who can write here can also read the keys and make a new MAC. Nothing links
one reading to the next.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

from nodes.exits import Trouble

__all__ = ["SCHEMA", "Escrow", "ReadingStore", "StoredReading", "read_readings"]

SCHEMA = "testbed.provider/1"
_ESCROW = "CREATE TABLE IF NOT EXISTS keys (device TEXT PRIMARY KEY, key BLOB NOT NULL)"
_READINGS = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS readings (
    device TEXT, counter INTEGER, batch INTEGER, time_us INTEGER, kind TEXT, body BLOB, mac BLOB,
    PRIMARY KEY (device, counter)) WITHOUT ROWID;
"""


Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
ROW_BYTES_MIN = 96  # a name and a MAC


class StoredReading(msgspec.Struct, frozen=True, array_like=True):
    """A device's call that the provider took: a row of `readings`. An enrolment has counter 0."""

    device: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    counter: Whole
    batch: Whole
    time_us: Whole
    kind: str
    body: bytes
    mac: bytes


class Escrow:
    """The key of every device, by its name. Written before a device is told its key."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = _open(path, _ESCROW)
        self._keys: dict[str, bytes] = dict(self._db.execute("SELECT device, key FROM keys"))

    def key(self, device: str) -> bytes | None:
        return self._keys.get(device)

    def keep(self, device: str, key: bytes) -> None:
        """It is durable after `commit`."""
        self._db.execute("INSERT INTO keys VALUES (?, ?)", (device, key))
        self._keys[device] = key

    def commit(self) -> None:
        self._db.commit()

    def close(self) -> None:
        self._db.close()


class ReadingStore:
    """The taken readings, in batches: those that came together are made durable together."""

    def __init__(self, path: Path) -> None:
        self._db = _open(path, _READINGS)
        self._db.execute("INSERT OR IGNORE INTO about VALUES ('schema', ?)", (SCHEMA,))
        self._db.commit()
        query = "SELECT ifnull(max(batch), 0) FROM readings"
        self.batch: int = self._db.execute(query).fetchone()[0]
        self._highest: dict[str, int] = dict(
            self._db.execute("SELECT device, max(counter) FROM readings GROUP BY device")
        )

    def highest(self, device: str) -> int:
        """The highest counter of a device, -1 if it never said anything."""
        return self._highest.get(device, -1)

    def mac(self, device: str, counter: int) -> bytes | None:
        """The MAC of the call with this counter, if it was taken."""
        query = "SELECT mac FROM readings WHERE device = ? AND counter = ?"
        row = self._db.execute(query, (device, counter)).fetchone()
        return None if row is None else row[0]

    def add(self, reading: StoredReading) -> None:
        """It is durable after `commit`."""
        row = msgspec.structs.astuple(reading)
        self._db.execute("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._highest[reading.device] = reading.counter

    def commit(self) -> None:
        self._db.commit()
        self.batch += 1

    def close(self) -> None:
        self._db.close()


def read_readings(path: Path) -> Iterator[StoredReading]:
    """The readings of a collected file, oldest batch first. Raises sqlite3.Error, also for a file
    that somebody made up."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        found = database.execute("SELECT value FROM about WHERE name = 'schema'").fetchone()
        if found != (SCHEMA,):
            raise sqlite3.DatabaseError(f"{path}: not a provider's readings")
        query = "SELECT * FROM readings ORDER BY batch, device, counter"
        rows_max = path.stat().st_size // ROW_BYTES_MIN  # a made-up table may have no end
        for row in islice(database.execute(query), rows_max):
            yield msgspec.convert(row, StoredReading)
    except msgspec.ValidationError as error:
        raise sqlite3.DatabaseError(f"{path}: {error}") from error
    finally:
        database.close()


def _open(path: Path, layout: str) -> sqlite3.Connection:
    """Raises Trouble."""
    try:
        database = sqlite3.connect(path, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(layout)
    except sqlite3.DatabaseError as error:
        raise Trouble(f"{path}: {error}") from error
    return database
