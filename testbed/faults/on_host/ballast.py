"""Runs on a host: holds so much memory until it is ended.   MEGABYTES

The kernel ends it, and nobody else, when the host has no memory left.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path

__all__: list[str] = []

if __name__ == "__main__":
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000")
    held = bytearray(b"\xff") * (int(sys.argv[1]) * 1024 * 1024)  # not zeros: those take nothing
    signal.pause()
