"""Another program that a bench starts, in a process group of its own that is always ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["running"]

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)  # what `testbed` ends cleanly on
_STOP_S = 30.0


@contextmanager
def running(
    command: Sequence[str],
    *,
    cwd: str | Path,
    stdout: IO[bytes],
    stderr: IO[bytes] | int,
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the program, and ends it with all that it started: by SIGTERM, then by SIGKILL. Only for
    the main thread."""
    process = None
    try:
        with _interrupts_held():
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=stdout, stderr=stderr, process_group=0
            )
        yield process
    finally:
        if process is not None:
            _end(process)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds interrupts back: one between the start of a process and its assignment would leave it
    running."""
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in _INTERRUPTS
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
