"""Runs on a host, even before anything of ours is on it: describes the host, and our files there.

`probe` prints JSON of `testbed.provision.probe.Facts`, `tree` the digest of the environment, and
`about` JSON for a bundle's env/<host>.json (`collect`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path

__all__ = ["main"]

STAMP = "stamp.json"


def read(path: str) -> str:
    """A small file, or ""."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def first(pattern: str, path: str) -> str | None:
    """The pattern's group in the first line of a file that matches."""
    found = re.search(pattern, read(path), re.MULTILINE)
    return found[1] if found else None


def system() -> str | None:
    return first(r'^PRETTY_NAME="?([^"\n]*)', "/etc/os-release")


def stamp() -> object:
    """The inputs of the environment; none if they cannot be read, as after a power cut: then it
    does not count, and is built again."""
    try:
        return json.loads(Path(f"env/{STAMP}").read_bytes())
    except (OSError, ValueError):
        return {}


def tree(top: str) -> str:
    """A digest that changes when a file of the environment is removed, added or changes its size.

    The stamp and the files that Python compiles for itself do not count.
    """
    seen = []
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name != "__pycache__"]
        paths = [os.path.join(folder, name) for name in files if name != STAMP]  # noqa: PTH118
        seen += [f"{path} {os.lstat(path).st_size}" for path in paths]
    return hashlib.sha256("\n".join(sorted(seen)).encode("utf-8", "replace")).hexdigest()


def probe() -> str:
    """All facts in one answer."""
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else ""
    return json.dumps(
        {
            "system": system() or platform.system(),
            "machine": platform.machine(),
            "bits": 64 if sys.maxsize > 2**32 else 32,
            "python": "{}.{}".format(*sys.version_info),
            "interpreter": sys.executable,
            "glibc": (libc or "").split(" ")[-1],
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "disk_free_mb": shutil.disk_usage(".").free // 2**20,
            "noexec": bool(os.statvfs(".").f_flag & os.ST_NOEXEC),
            "stamp": stamp(),
            "tree": tree("env"),
        }
    )


def about() -> str:
    """What reviewers of a run want to know of the machine."""
    return json.dumps(
        {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "os": system(),
            "cpu": first(r"^(?:model name|Model)\s*:\s*(.*)", "/proc/cpuinfo"),
            "cores": os.cpu_count(),
            "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
            "boot": read("/proc/sys/kernel/random/boot_id") or None,
        }
    )


def main() -> None:
    """Answers one word."""
    answers = {"probe": probe, "tree": lambda: tree("env"), "about": about}
    print(answers[sys.argv[1]]())  # noqa: T201


if __name__ == "__main__":
    main()
