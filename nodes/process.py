"""The `__main__` level of every long-running process of this folder.

Signals, the end of the parent, a full disk, the ready file, housekeeping. A process ends cleanly
on SIGTERM, SIGINT and SIGHUP, and with `--exit-on-stdin-eof` when its parent is gone. Its
background tasks are `gateway.tasks`.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.hops import NO_TRACE, Trace
from gateway.tasks import Tasks, set_within
from nodes.disk import has_room, lacks_room, write_atomically, writing_failed
from nodes.events import FLUSH_AGE_MS, EventLog
from nodes.exits import EXIT_TROUBLE, Trouble, fail, say
from nodes.output import bound_output
from nodes.usage import USAGE_S, usage

__all__ = ["Arguments", "arguments", "end_with_parent", "housekeeping", "run", "write_ready"]

DISK_RETRY_S = 1.0  # between two looks whether a full disk has room again
FAILING_S = 60.0  # two writes fail within this time although there is room: the medium fails


class Arguments(NamedTuple):
    """The command line of every process."""

    config: Path
    exit_on_stdin_eof: bool


def arguments(program: str, about: str | None) -> Arguments:
    """Reads the command line of `python -m program`."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="end with the parent")
    return Arguments(**vars(parser.parse_args()))


def write_ready(path: str | None, ports: dict[str, int]) -> None:
    """Tells the program that started this process that it listens, and where."""
    if path is not None:
        ready = {"pid": os.getpid(), "ports": ports}
        write_atomically(Path(path), msgspec.json.encode(ready) + b"\n")


async def housekeeping(events: EventLog, trace: Trace = NO_TRACE) -> None:
    """Writes the events and hops that wait, and logs what a traced process uses of its machine.
    Runs until cancelled."""
    usage_s = time.monotonic()
    try:
        while True:
            await asyncio.sleep(FLUSH_AGE_MS / 1000)
            events.flush()
            trace.flush()
            if trace.on and time.monotonic() - usage_s >= USAGE_S:
                usage_s = time.monotonic()
                events.emit("usage", **usage())
    finally:
        if trace.on:
            events.emit("usage", **usage())


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
    room: it must begin from what is on the disk. It is run once more when a write failed and there
    is room by now. `Trouble` of another kind ends the process with one line on stderr and exit
    code 3.
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
            failed_s = -inf
            while not stopping.is_set():
                try:
                    await main(stopping)
                    return
                except Exception as error:
                    if not lacks_room(error, directory):
                        before_s, failed_s = failed_s, time.monotonic()
                        if not writing_failed(error) or failed_s - before_s < FAILING_S:
                            raise
                    await _room(directory, stopping, str(error))

    # The system frees everything at once: the collector need not look for cycles first.
    atexit.register(gc.freeze)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(supervised())
    except Trouble as trouble:
        fail(EXIT_TROUBLE, str(trouble))


async def _room(directory: Path, stopping: asyncio.Event, why: str) -> None:
    say(f"{why}; waiting until the disk of {directory} has room")
    start_s = time.monotonic()
    while not await set_within(stopping, DISK_RETRY_S):
        if await asyncio.to_thread(has_room, directory):
            say(f"room again after {time.monotonic() - start_s:.1f} s; going on")
            return


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is built for the platform, asyncio's own loop elsewhere."""
    try:
        import uvloop  # noqa: PLC0415 - optional: some boards have no wheel of it
    except ImportError:
        return None
    return uvloop.new_event_loop
