"""Local files: their content in pieces, its digest, and locks."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["CHUNK_BYTES", "chunks", "digest", "locked"]

CHUNK_BYTES = 256 * 1024


def chunks(source: bytes | Path) -> Iterator[bytes]:
    """The content in pieces of CHUNK_BYTES, so that the whole file is never in memory."""
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    with source.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def digest(source: bytes | Path) -> str:
    """SHA-256 in hexadecimal digits."""
    sha = hashlib.sha256()
    for piece in chunks(source):
        sha.update(piece)
    return sha.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a directory, or of a file that is made if it is not there; until the end of
    this process at the latest."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
