"""Where a run's hosts live on this machine, and what runs that died left behind.

Keys and tokens are in there, so it is private and goes away with the run. Its name holds the
owner's process id: a later run removes what belongs to nobody any more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inventory.model import Lab
from nodes.board.pty import socket_path_bytes_max
from testbed.errors import ConfigurationError

__all__ = ["check_sockets", "workspace", "workspaces"]

_PREFIX = "m2m-"


@contextmanager
def workspace() -> Iterator[Path]:
    """A fresh private directory, removed on the way out."""
    _sweep()
    path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_parent()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_sockets(lab: Lab, root: Path) -> None:
    """Before anything starts: a Unix socket's path must not be too long for the kernel.

    Raises ConfigurationError.
    """
    for name, board in lab.boards_in_use().items():
        if lab.hosts[board.host].connection == "local":
            path = root.resolve() / board.host / name / "control.sock"
            if len(os.fsencode(path)) > socket_path_bytes_max:
                raise ConfigurationError(
                    f"the temporary directory {_parent()} has too long a name: the socket {path} "
                    f"may have {socket_path_bytes_max} bytes\n  fix: TMPDIR=/tmp testbed ..."
                )


def workspaces() -> list[Path]:
    """Those that are there, of whomever."""
    return list(_parent().glob(f"{_PREFIX}*-*"))


def _parent() -> Path:
    """Always the same place. (`tempfile.gettempdir` takes another one while this one is full.)"""
    return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - mkdtemp makes private ones


def _sweep() -> None:
    """Remove workspaces of this user whose owner is gone (their processes ended with it)."""
    for path in workspaces():
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and path.stat().st_uid == os.getuid() and not _alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
