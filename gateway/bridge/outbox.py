"""A persistent outbox: a message is on disk before anybody is told that it will arrive.

An entry stays until `done`. Call `done` when the *receiver* has answered, not when the broker has
acknowledged: the embedded broker keeps messages in memory only. Receivers drop repeated messages by
digest. `courier` sends the entries.

SQLite in WAL mode with synchronous=FULL: when `put` returns, the entry survives kill -9 and power
loss. Every row has a checksum. A damaged file is an error, never an empty outbox.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chain.errors import Misuse
from gateway.refusing import LocalFault

__all__ = ["Outbox", "OutboxCorruptError", "OutboxEntry", "OutboxFullError"]

_APPLICATION_ID = 0x4D324D4F  # "M2MO": an SQLite file of another program is not an outbox
_VERSION = 1
_digest_bytes = 32
_busy_timeout_ms = 2000
_SCHEMA = """
CREATE TABLE entry (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  digest BLOB NOT NULL UNIQUE,
  topic TEXT NOT NULL,
  payload BLOB NOT NULL,
  checksum BLOB NOT NULL
) STRICT
"""


class OutboxFullError(LocalFault):
    """There is no room: nothing was stored. The caller must wait and try again."""

    def __init__(self, what: Literal["count", "bytes", "disk"], message: str) -> None:
        super().__init__(message)
        self.what = what


class OutboxCorruptError(LocalFault):
    """The file is damaged or not an outbox. The message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One message; `seq` grows in the order of `put`."""

    seq: int
    digest: bytes
    topic: str
    payload: bytes


def _checksum(digest: bytes, topic: str, payload: bytes) -> bytes:
    return hashlib.sha256(digest + topic.encode() + b"\0" + payload).digest()[:8]


class Outbox:
    """Entries in order, each digest once, bounded by count and by payload bytes.

    Several threads of one process may use it. A second process is refused (`Misuse`).
    """

    def __init__(
        self, path: Path, *, entries_max: int = 10_000, bytes_max: int = 64 * 1024 * 1024
    ) -> None:
        self._path = path
        self._entries_max, self._bytes_max = entries_max, bytes_max
        self._lock = threading.Lock()
        path.touch(mode=0o600, exist_ok=True)
        self._db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=_busy_timeout_ms / 1000
        )
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        with self._named_errors():
            # Exclusive: two processes would each count only their own bytes.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN EXCLUSIVE")
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if application == 0 and tables == 0:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version={_VERSION}")
            elif application != _APPLICATION_ID:
                raise self._corrupt("it is another program's database")
            self._db.execute("COMMIT")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version != _VERSION:
                raise self._corrupt(f"its format is {version}, this program knows {_VERSION}")
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise self._corrupt(verdict)
            count, total = self._db.execute(
                "SELECT count(*), coalesce(sum(length(payload)), 0) FROM entry"
            ).fetchone()
            self._count, self._bytes = int(count), int(total)

    def __len__(self) -> int:
        return self._count

    @property
    def payload_bytes(self) -> int:
        return self._bytes

    def put(self, digest: bytes, topic: str, payload: bytes) -> bool:
        """Stores one entry. Returns False if an entry with this digest is there already.

        Durable on return. Raises OutboxFullError.
        """
        with self._lock, self._named_errors():
            return self._store(digest, topic, payload)

    def _store(self, digest: bytes, topic: str, payload: bytes) -> bool:
        if len(digest) != _digest_bytes:
            raise Misuse(f"a digest has {_digest_bytes} bytes, not {len(digest)}")
        known = self._db.execute("SELECT 1 FROM entry WHERE digest=?", (digest,)).fetchone()
        if known:
            return False
        self._check_room(len(payload))
        self._db.execute(
            "INSERT INTO entry(digest, topic, payload, checksum) VALUES(?,?,?,?)",
            (digest, topic, payload, _checksum(digest, topic, payload)),
        )
        self._count += 1
        self._bytes += len(payload)
        return True

    def _check_room(self, more_bytes: int) -> None:
        if self._count >= self._entries_max:
            raise OutboxFullError("count", f"{self._path}: {self._count} entries are waiting")
        if self._bytes + more_bytes > self._bytes_max:
            raise OutboxFullError(
                "bytes", f"{self._path}: {self._bytes} of {self._bytes_max} bytes are waiting"
            )

    def pending(self, after_seq: int = 0, limit: int = 100) -> list[OutboxEntry]:
        """The first `limit` entries after `after_seq`, in order."""
        with self._lock, self._named_errors():
            rows = self._db.execute(
                "SELECT seq, digest, topic, payload, checksum FROM entry"
                " WHERE seq>? ORDER BY seq LIMIT ?",
                (after_seq, limit),
            ).fetchall()
        for seq, digest, topic, payload, checksum in rows:
            if checksum != _checksum(digest, topic, payload):
                raise self._corrupt(f"entry {seq} does not match its checksum")
        return [OutboxEntry(*row[:4]) for row in rows]

    def done(self, digest: bytes) -> bool:
        """The receiver has answered: forgets the entry. Returns False if there was none."""
        with self._lock, self._named_errors():
            return self._forget(digest)

    def _forget(self, digest: bytes) -> bool:
        row = self._db.execute(
            "DELETE FROM entry WHERE digest=? RETURNING length(payload)", (digest,)
        ).fetchone()
        if row is None:
            return False
        self._count -= 1
        self._bytes -= row[0]
        return True

    def exchange(self, fresh: Sequence[OutboxEntry], done: Sequence[bytes]) -> None:
        """Forgets `done` and stores `fresh` with one sync to disk. `seq` is ignored, and known
        entries stay unchanged. All or nothing. Raises OutboxFullError."""
        with self._lock, self._named_errors():
            self._db.execute("BEGIN")
            count, size = self._count, self._bytes
            try:
                for digest in done:
                    self._forget(digest)
                for entry in fresh:
                    self._store(entry.digest, entry.topic, entry.payload)
                self._db.execute("COMMIT")
            except BaseException:
                self._count, self._bytes = count, size
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _corrupt(self, why: str) -> OutboxCorruptError:
        return OutboxCorruptError(
            f"{self._path}: damaged outbox ({why}); move the file away to go on without what it"
            " holds, or restore it from a copy"
        )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            # Errors of Python itself, for example text that is not UTF-8, have no code.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Misuse(f"{self._path}: another process has this outbox open") from error
            if code == sqlite3.SQLITE_FULL:
                raise OutboxFullError("disk", f"{self._path}: the disk is full") from error
            if code & 0xFF == sqlite3.SQLITE_IOERR:
                raise OutboxFullError("disk", f"{self._path}: {error}") from error
            raise self._corrupt(str(error)) from error
