"""What every long-running process of this folder shares at `__main__` level.

Signals, the end of the parent, a full disk, the ready file, exit codes. A process ends cleanly on
SIGTERM, SIGINT and SIGHUP, and with `--exit-on-stdin-eof` when its parent is gone. Its background
tasks are `gateway.tasks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from gateway.tasks import Tasks
from nodes.output import bound_output

__all__ = [
    "EXIT_BAD_CONFIG",
    "EXIT_TROUBLE",
    "Trouble",
    "end_with_parent",
    "fail",
    "lacks_room",
    "run",
    "say",
    "write_atomically",
    "write_ready",
]

EXIT_BAD_CONFIG = 2
EXIT_TROUBLE = 3  # the world: a port that is taken, a file that is damaged
DISK_RETRY_S = 1.0  # between two looks whether a full disk has room again
ROOM_BYTES = 256 * 1024  # that a disk must take before a process goes on
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Trouble(Exception):
    """Something outside this process prevents its work; the message says what to mend."""


def say(message: str) -> None:
    """One line on stderr, if stderr takes it: a log may stand on a disk that is full."""
    with contextlib.suppress(OSError):
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


def fail(code: int, message: str) -> NoReturn:
    """One line on stderr, then the end."""
    say(message)
    raise SystemExit(code)


def lacks_room(error: BaseException, directory: Path) -> bool:
    """Whether a full disk, or a quota, is behind this error. `directory` is on that disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return True
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return True
        if code == sqlite3.SQLITE_IOERR:  # also of a file beside the database that cannot grow
            return not _has_room(directory)
        cause = cause.__cause__
    return False


def write_atomically(path: Path, data: bytes, mode: int = 0o644, *, replace: bool = True) -> None:
    """Readers see the old file or the new one, never a part, and after a power cut the new one.

    Without `replace` a file that is there stays: FileExistsError.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            Path(name).rename(path)
        else:
            path.hardlink_to(name)  # the one way to give a name that fails if it is taken
            Path(name).unlink()
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """A file's new name is on the disk only when its directory is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_ready(path: str | None, ports: dict[str, int]) -> None:
    """Tells whoever started this process that it listens, and where."""
    if path is not None:
        ready = {"pid": os.getpid(), "ports": ports}
        write_atomically(Path(path), msgspec.json.encode(ready) + b"\n")


def end_with_parent(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Calls `stop` when stdin, a pipe from the parent, reaches its end."""
    descriptor = sys.stdin.fileno()
    os.set_blocking(descriptor, False)

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(descriptor, 4096):
                loop.remove_reader(descriptor)
                stop()

    loop.add_reader(descriptor, readable)


def run(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    *,
    directory: Path,
    exit_on_stdin_eof: bool,
) -> None:
    """Runs `main(stopping)` to its end; `stopping` is set by a signal or a gone parent.

    When `main` ends because the disk of `directory` is full, it is run again as soon as there is
    room: it must begin from what is on the disk. `Trouble` of another kind ends the process with
    one line on stderr and exit code 3.
    """

    async def supervised() -> None:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stopping.set)
        if exit_on_stdin_eof:
            end_with_parent(loop, stopping.set)
        async with Tasks() as tasks:
            tasks.start(bound_output())
            while not stopping.is_set():
                try:
                    await main(stopping)
                    return
                except Exception as error:
                    if not lacks_room(error, directory):
                        raise
                    await _room(directory, stopping, str(error))

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(supervised())
    except Trouble as trouble:
        fail(EXIT_TROUBLE, str(trouble))


async def _room(directory: Path, stopping: asyncio.Event, why: str) -> None:
    say(f"{why}; waiting until the disk of {directory} has room")
    start_s = time.monotonic()
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), DISK_RETRY_S)
        if stopping.is_set():
            return
        if await asyncio.to_thread(_has_room, directory):
            say(f"room again after {time.monotonic() - start_s:.1f} s; going on")
            return


def _has_room(directory: Path) -> bool:
    here = next(each for each in (directory, *directory.parents) if each.is_dir())
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is built for the platform, asyncio's own loop elsewhere."""
    try:
        import uvloop  # noqa: PLC0415 - optional: some boards have no wheel of it
    except ImportError:
        return None
    return uvloop.new_event_loop
