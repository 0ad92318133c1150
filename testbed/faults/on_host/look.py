"""Runs on a host: prints the kernel's figures of a process, as JSON.   PID

`stopped`: the share of looks, in half a second, in which it was stopped. `rss_kb`: memory that it
holds. `written`: bytes that it wrote. `available_kb`: memory that the host has left.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

__all__: list[str] = []

LOOKS = 50
EVERY_S = 0.01


def field(path: Path, name: str) -> int:
    """The first number of the line that begins with a name."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def stopped(process: Path) -> float:
    """The share of looks in which the process was stopped."""
    seen = 0
    for _ in range(LOOKS):
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        seen += state == "T"
        time.sleep(EVERY_S)
    return seen / LOOKS


if __name__ == "__main__":
    of = Path("/proc") / sys.argv[1]
    seen = {
        "stopped": stopped(of),
        "rss_kb": field(of / "status", "VmRSS:"),
        "written": field(of / "io", "wchar:"),
        "available_kb": field(Path("/proc/meminfo"), "MemAvailable:"),
    }
    print(json.dumps(seen))  # noqa: T201 - this is its answer
