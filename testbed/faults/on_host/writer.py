"""Runs on a host: writes to a file and syncs it, again and again, until it is ended.   FILE

The file's size is bounded, and the file disappears with this program.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

__all__: list[str] = []

PIECE_BYTES = 1024 * 1024
FILE_BYTES_MAX = 64 * PIECE_BYTES


def write(path: Path, over: threading.Event) -> None:
    """Writes until `over`."""
    piece = os.urandom(PIECE_BYTES)
    try:
        with path.open("wb", buffering=0) as file:
            while not over.is_set():
                file.write(piece)
                os.fsync(file.fileno())
                if file.tell() >= FILE_BYTES_MAX:
                    file.seek(0)
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    write(Path(sys.argv[1]), ended)
