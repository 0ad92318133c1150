"""What every long-running process of this folder shares at `__main__` level.

Signals, the end of the parent, the ready file, exit codes. A process ends cleanly on SIGTERM,
SIGINT and SIGHUP, and with `--exit-on-stdin-eof` when its parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import msgspec

__all__ = [
    "EXIT_BAD_CONFIG",
    "EXIT_TROUBLE",
    "Trouble",
    "end_with_parent",
    "fail",
    "run",
    "write_atomically",
    "write_ready",
]

EXIT_BAD_CONFIG = 2
EXIT_TROUBLE = 3  # the world: port taken, disk full


class Trouble(Exception):
    """Something outside this process prevents its work; the message says what to mend."""


def fail(code: int, message: str) -> NoReturn:
    """One line on stderr, then the end."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    raise SystemExit(code)


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
    """A file's new name is on the disk only when the directory that it stands in is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_ready(path: Path | None, ports: dict[str, int]) -> None:
    """Tells whoever started us that we listen, and where."""
    if path is not None:
        ready = {"pid": os.getpid(), "ports": ports}
        write_atomically(path, msgspec.json.encode(ready) + b"\n")


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
    exit_on_stdin_eof: bool,
) -> None:
    """Runs `main(stopping)` to its end; `stopping` is set by a signal or a gone parent.

    `Trouble` ends the process with one line on stderr and exit code 3.
    """

    async def supervised() -> None:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stopping.set)
        if exit_on_stdin_eof:
            end_with_parent(loop, stopping.set)
        await main(stopping)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(supervised())
    except Trouble as trouble:
        fail(EXIT_TROUBLE, str(trouble))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is built for the platform, asyncio's own loop elsewhere."""
    try:
        import uvloop  # noqa: PLC0415 - optional: some boards have no wheel of it
    except ImportError:
        return None
    return uvloop.new_event_loop
