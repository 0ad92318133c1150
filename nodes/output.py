"""Bounds the output file of this process: systemd appends to it and never rotates it.

On the machine of the orchestrator, output goes through a pipe to our own supervisor, which rotates
(`testbed.hosts.supervise`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import sys
from pathlib import Path

__all__ = ["OUTPUT_BYTES_MAX", "bound_output", "cut_output"]

OUTPUT_BYTES_MAX = 16 * 1024 * 1024  # of one file, when it is looked at; there are two at most
LOOK_S = 10.0


async def bound_output() -> None:
    """Runs until cancelled."""
    while True:
        await asyncio.to_thread(cut_output, sys.stderr.fileno())
        await asyncio.sleep(LOOK_S)


def cut_output(descriptor: int, bytes_max: int = OUTPUT_BYTES_MAX) -> None:
    """A file above the limit is copied to `<name>.1` and emptied. Its first line then says how much
    was dropped: the earlier `.1`, or everything if the disk takes no copy."""
    with contextlib.suppress(OSError):
        status = os.fstat(descriptor)
        appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        if not (stat.S_ISREG(status.st_mode) and appends and status.st_size > bytes_max):
            return
        log = Path(f"/proc/self/fd/{descriptor}").readlink()
        older = log.with_name(log.name + ".1")
        dropped_bytes = older.stat().st_size if older.exists() else 0
        try:
            shutil.copyfile(log, older)
        except OSError:
            dropped_bytes += status.st_size
            with contextlib.suppress(OSError):
                older.unlink()
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{dropped_bytes} bytes of older output were dropped\n".encode())
