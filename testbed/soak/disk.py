"""A small disk of our own for the lab, so that it can be filled: root only.

The command runs itself once more in its own mount namespace. Nobody else sees the disk, and it
disappears with the last process, even after kill -9.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed.errors import LabFault

__all__ = ["enter_own_disk", "filled", "lacking", "own_disk"]

DISK_MB = 512
DISK_MB_PER_S = 0.8
"""The lab writes about a third of it; collecting copies each ledger once more."""
_MARK = "TESTBED_SOAK_DISK"


def lacking() -> str:
    """Why there can be no such disk here; empty if there can."""
    if os.getuid() != 0:
        return "only root can mount a disk that may be filled"
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "unshare and mount are missing: apt-get install util-linux mount"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)  # noqa: S607
    return "" if tried.returncode == 0 else f"no mount namespaces here: {tried.stderr.decode()}"


def enter_own_disk() -> None:
    """Does not return: this process becomes the same command, in a mount namespace of its own."""
    directory = tempfile.mkdtemp(prefix="soak-")
    environment = {**os.environ, _MARK: directory, "TMPDIR": directory}
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "testbed.cli"]
    os.execvpe("unshare", [*argv, *sys.argv[1:]], environment)  # noqa: S606, S607


@contextmanager
def own_disk(duration_s: float) -> Iterator[Path | None]:
    """Mounts the disk if `enter_own_disk` was called before; otherwise None. It has room for a soak
    of this duration."""
    name = os.environ.get(_MARK)
    if name is None:
        yield None
        return
    size = f"size={round(DISK_MB + DISK_MB_PER_S * duration_s)}m"
    mount = ["mount", "-t", "tmpfs", "-o", f"{size},mode=700", "tmpfs", name]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabFault(f"mount {name}: {done.stderr.strip()}")
    try:
        yield Path(name)
    finally:
        subprocess.run(["umount", "--lazy", name], check=False)  # noqa: S607
        with suppress(OSError):
            Path(name).rmdir()


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """The disk is full for the length of a `with` block: it is made as small as its content. That
    takes no time, with any size."""
    whole = os.statvfs(disk)
    size_bytes = whole.f_blocks * whole.f_frsize
    try:
        while not _resized(disk, _used_bytes(disk)):
            pass  # its content grew meanwhile
        yield
    finally:
        if not _resized(disk, size_bytes):
            raise LabFault(f"{disk} cannot be given its size back")


def _used_bytes(disk: Path) -> int:
    """At least a page: size 0 is no limit."""
    now = os.statvfs(disk)
    return max(1, now.f_blocks - now.f_bfree) * now.f_frsize


def _resized(disk: Path, size_bytes: int) -> bool:
    argv = ["mount", "-o", f"remount,size={size_bytes}", str(disk)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
