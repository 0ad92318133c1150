"""The content of a local file: in pieces, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CHUNK_BYTES", "chunks", "digest"]

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
