"""The trace of one process: records of fixed size, written in pieces, never read during a run.

A record is 24 bytes, little-endian: hop (2 bytes), epoch modulo 65,536 (2), view (4), monotonic
time in ns (8), key (8). The key is a height for a hop of a block, else `request_key`. The file
begins with MAGIC, which has the size of a record. Numbers below 16 are about the file itself (see
`Mark`). If a process is killed, a torn record may be at the end; the next start cuts it off and
goes on with a new START. `testbed.traces.read` reads all this.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final
from uuid import UUID

from gateway.hops import NO_TRACE, Hop, Trace, request_key
from nodes.events import boot_id

__all__ = ["MAGIC", "RECORD", "TRACE_BYTES_MAX", "Mark", "TraceFile", "open_trace"]

RECORD: Final = Struct("<HHIQQ")
MAGIC: Final = b"m2m-testbed trace 1".ljust(RECORD.size, b"\0")
TRACE_BYTES_MAX = 64 * 1024 * 1024  # of one file; more is counted and dropped
CLOCK_EVERY_NS = 1_000_000_000  # between two notes of the wall clock
_BUFFER_RECORDS = 2730  # 64 KiB
_EPOCHS = 1 << 16
_VIEW_MAX = 2**32 - 1


class Mark(IntEnum):
    """Records about the file itself."""

    START = 1
    """A process begins to write. Key: of how many requests one is noted. Time: of the start."""
    BOOT = 2
    """Follows START: the boot id, its first eight bytes as the time, its last ones as the key."""
    CLOCK = 3
    """Key: the wall clock, ns since 1970, at this monotonic time."""
    DROPPED = 4
    """Key: how many records found no room since the last START, or could not be written."""


class TraceFile(Trace):
    """Of the requests, one in `every` is noted: the same ones in all processes, chosen by their
    ids. Called by one thread only.

    Losing records must not stop a process: after a write error they are dropped and counted.
    """

    on = True

    def __init__(
        self,
        path: Path,
        every: int = 1,
        *,
        bytes_max: int = TRACE_BYTES_MAX,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Raises OSError if the file cannot be made."""
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._every = every
        self._buffer = bytearray(RECORD.size * _BUFFER_RECORDS)
        self._used = 0
        self._clock_ns = -CLOCK_EVERY_NS
        self._dropped = 0
        self._file = path.open("ab", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        self._file.truncate(size - size % RECORD.size)
        if size < RECORD.size and self._file.write(MAGIC) < len(MAGIC):
            self._file.close()
            raise OSError(f"{path}: no room")
        # One record is kept for DROPPED.
        self._room = (bytes_max - size) // RECORD.size * RECORD.size - 2 * RECORD.size
        boot = UUID(known).bytes if (known := boot_id()) != "unknown" else bytes(16)
        self._add(Mark.START, 0, 0, self.now_ns(), every)
        self._add(Mark.BOOT, 0, 0, int.from_bytes(boot[:8], "big"), int.from_bytes(boot[8:], "big"))

    def now_ns(self) -> int:
        return self._monotonic_ns()

    def request(
        self, hop: Hop, request: bytes, at_ns: int = 0, view: int = 0, epoch: int = 0
    ) -> None:
        key = request_key(request)
        if key % self._every == 0:
            self._add(hop, epoch, view, at_ns or self.now_ns(), key)

    def block(self, hop: Hop, height: int, at_ns: int = 0, view: int = 0, epoch: int = 0) -> None:
        self._add(hop, epoch, view, at_ns or self.now_ns(), height)

    def _add(self, what: int, epoch: int, view: int, at_ns: int, key: int) -> None:
        RECORD.pack_into(
            self._buffer, self._used, what, epoch % _EPOCHS, min(view, _VIEW_MAX), at_ns, key
        )
        self._used += RECORD.size
        if self._used == len(self._buffer):
            self._write_buffer()

    def flush(self) -> None:
        now_ns = self.now_ns()
        if now_ns - self._clock_ns >= CLOCK_EVERY_NS:
            self._clock_ns = now_ns
            self._add(Mark.CLOCK, 0, 0, now_ns, self._wall_ns())
        self._write_buffer()

    def _write_buffer(self) -> None:
        data = memoryview(self._buffer)[: self._used]
        self._used = 0
        fits = data[: max(0, self._room)]
        self._room -= len(fits)
        self._dropped += (len(data) - len(fits)) // RECORD.size
        self._write(fits)

    def _write(self, data: memoryview) -> None:
        """A disk that becomes full may take a part of it: a torn record is cut off."""
        size = self._file.seek(0, os.SEEK_END)
        written = 0
        with contextlib.suppress(OSError):
            while written < len(data):
                written += self._file.write(data[written:])
        if written < len(data):
            whole = written - written % RECORD.size
            with contextlib.suppress(OSError):
                self._file.truncate(size + whole)
            self._dropped += (len(data) - whole) // RECORD.size

    def close(self) -> None:
        self._clock_ns = -CLOCK_EVERY_NS  # the wall clock at the end
        self.flush()
        if self._dropped:
            dropped = RECORD.pack(Mark.DROPPED, 0, 0, self.now_ns(), self._dropped)
            self._write(memoryview(dropped))
        self._file.close()


def open_trace(path: str | None, every: int) -> Trace:
    """Nothing is noted without a `path`, and on a disk that does not take the file."""
    if path is None:
        return NO_TRACE
    try:
        return TraceFile(Path(path), every)
    except OSError:
        return NO_TRACE
