"""The lock of a bundle that is being written. It ends with its process, even by kill -9.

It locks two things: the bundle's directory, because somebody might delete the file; and a file in
it, which names the process, and whose lock other machines see on a network disk.

A process that only asks whether there is a lock takes a shared lock for an instant. A writer takes
an exclusive lock. So the writer recognises a process that only asks, and tries again until it has
gone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed.errors import ConfigurationError, LockedError

__all__ = ["LOCK", "is_locked", "locked", "require_unlocked"]

LOCK = ".lock"
_ASKED_S_MAX = 5.0  # so long may others ask without a pause, or be stopped while they ask
_AGAIN_S = 0.001


def is_locked(bundle: Path) -> bool:
    """Whether a process has it `locked`. Raises ConfigurationError if that cannot be known: this
    user may not read the lock, or the disk has none."""
    for path in (bundle.resolve(), bundle / LOCK):
        with suppress(FileNotFoundError), _opened(path, os.O_RDONLY) as descriptor:
            try:
                _flock(descriptor, fcntl.LOCK_SH)
            except BlockingIOError:
                return True
    return False


def require_unlocked(bundle: Path) -> None:
    """As `locked`, but changes nothing: the bundle may be locked by another process afterwards."""
    if is_locked(bundle):
        raise _taken(bundle)


@contextmanager
def locked(bundle: Path) -> Iterator[None]:
    """Raises LockedError if another process has it, and ConfigurationError if it may not be locked
    or a link is in the place of the file."""
    with (
        _opened(bundle.resolve(), os.O_RDONLY) as directory,
        _opened(bundle / LOCK, os.O_RDWR | os.O_CREAT) as file,
    ):
        try:
            for each in (directory, file):
                _take(each)
        except BlockingIOError as error:
            raise _taken(bundle) from error
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()}\n".encode())
        yield


def _take(descriptor: int) -> None:
    """Raises BlockingIOError if a writer has it."""
    until_s = time.monotonic() + _ASKED_S_MAX
    while True:
        try:
            _flock(descriptor, fcntl.LOCK_EX)
        except BlockingIOError:
            _flock(descriptor, fcntl.LOCK_SH)  # nobody writes if that can be had
            _flock(descriptor, fcntl.LOCK_UN)
            if time.monotonic() > until_s:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def _taken(bundle: Path) -> LockedError:
    owner = ""
    with suppress(OSError):
        owner = (bundle / LOCK).read_text(errors="replace").strip()
    return LockedError(f"{bundle} is being written by {owner or 'another process'}")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Others may read the file: whether it is locked."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except FileNotFoundError:
        raise
    except OSError as error:
        fix = (
            "; ask as the user who runs the campaign" if isinstance(error, PermissionError) else ""
        )
        raise ConfigurationError(f"{path}: {error.strerror}{fix}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> None:
    """Raises BlockingIOError if another has it, and ConfigurationError if the disk has no locks."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        raise ConfigurationError(
            f"{path} cannot be locked: {error.strerror}; bundles need a disk that has locks"
        ) from error
