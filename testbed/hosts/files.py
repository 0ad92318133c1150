"""Writes a local file as a whole or not at all. Both kinds of host and the collectors use it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

__all__ = ["CHUNK_BYTES", "atomic_file", "chunks", "digest"]

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
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[BufferedWriter]:
    """A temporary file beside `path` that replaces it, synced, when the block ends without an
    error."""
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".part", dir=path.parent
    )
    try:
        os.close(descriptor)
        with Path(temporary).open("wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
