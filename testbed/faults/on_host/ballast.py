"""Runs on a host: holds so much memory until it is ended.   MEGABYTES

When the host has no memory left, the kernel ends this program first.
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
    held = bytearray(b"\xff") * (int(sys.argv[1]) * 1024 * 1024)  # zeros take no memory
    signal.pause()
