"""The directory of a run's hosts on this machine. Also removes directories that dead runs left
behind.

It contains keys and tokens, so it is private and is removed with the run. Its name has the owner's
process id, so a later run can remove directories without an owner.
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
from testbed.hosts.guard import is_alive

__all__ = ["check_sockets", "workspace", "workspaces"]

_PREFIX = "m2m-"


@contextmanager
def workspace() -> Iterator[Path]:
    """A new private directory, removed at the end."""
    _sweep()
    path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_parent()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_sockets(lab: Lab, root: Path) -> None:
    """Check, before anything starts, that a Unix socket's path is not too long for the kernel.

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
    """All existing workspaces, of any user."""
    return list(_parent().glob(f"{_PREFIX}*-*"))


def _parent() -> Path:
    """The parent directory, always the same. (`tempfile.gettempdir` takes another one while this
    one is full.)"""
    return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - mkdtemp makes private ones


def _sweep() -> None:
    """Remove this user's workspaces if their owner has ended (and its processes with it)."""
    for path in workspaces():
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and path.stat().st_uid == os.getuid() and not is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
