"""Runs on a host: prints its facts as JSON, for the bundle's env/<host>.json; see `collect`."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path

__all__ = ["main"]


def read(path: str) -> str | None:
    """A small file, or None."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def first(pattern: str, path: str) -> str | None:
    """The pattern's group in the first line of a file that matches."""
    found = re.search(pattern, read(path) or "", re.MULTILINE)
    return found[1] if found else None


def main() -> None:
    """Prints one JSON object."""
    about = {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "os": first(r'^PRETTY_NAME="?([^"\n]*)', "/etc/os-release"),
        "cpu": first(r"^(?:model name|Model)\s*:\s*(.*)", "/proc/cpuinfo"),
        "cores": os.cpu_count(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "boot": read("/proc/sys/kernel/random/boot_id"),
    }
    print(json.dumps(about))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
