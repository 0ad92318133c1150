"""Writing files so that a power cut leaves them whole, and telling whether a disk is full."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path

__all__ = ["atomic_file", "has_room", "lacks_room", "write_atomically", "writing_failed"]

ROOM_BYTES = 256 * 1024  # that a disk must take before a process goes on
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_file(path: Path, mode: int = 0o644, *, replace: bool = True) -> Iterator[BufferedWriter]:
    """A temporary file beside `path` that replaces it, synced, when the block ends without an
    error. Readers see the old file or the new one, never a part.

    Without `replace` a file that is there stays: FileExistsError.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    new = Path(name)
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if replace:
            new.rename(path)
        else:
            path.hardlink_to(new)  # the one way to give a name that fails if it is taken
            new.unlink()
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes, mode: int = 0o644, *, replace: bool = True) -> None:
    """As `atomic_file`, and after a power cut the new file is there."""
    with atomic_file(path, mode, replace=replace) as file:
        file.write(data)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """A file's new name is on the disk only when its directory is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lacks_room(error: BaseException, directory: Path) -> bool:
    """Whether a full disk, or a quota, is behind this error. `directory` is on that disk."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return True
        if _sqlite_code(cause) == sqlite3.SQLITE_FULL:
            return True
    return writing_failed(error) and not has_room(directory)


def writing_failed(error: BaseException) -> bool:
    """Whether SQLite could not write, for a reason that it does not tell: a medium that fails, a
    quota, or a file beside the database that cannot grow. A quota may have room again by now."""
    return any(_sqlite_code(cause) == sqlite3.SQLITE_IOERR for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _sqlite_code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def has_room(directory: Path) -> bool:
    """Whether a file of ROOM_BYTES can be written there, or in the nearest parent that exists."""
    here = next(each for each in (directory, *directory.parents) if each.is_dir())
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True
