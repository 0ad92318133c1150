"""The link to a board on a PTY whose other end the test holds; the board is `BoardSession` itself.

The stories with real firmware are in tests/nodes/test_board.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import termios
import tty
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.serial import uart
from gateway.serial.board_session import BoardSession
from gateway.serial.frames import Frame, decode_line
from gateway.serial.host_session import HostSession, Taken, Timing
from gateway.serial.port import BoardPort, PortFault
from gateway.serial.session import Connected, kind_ack
from gateway.serial.uart import (
    BoardEvent,
    BoardLink,
    Disconnected,
    monotonic_ms,
)

deadline_s = 60  # generous: other tests share the machine
key = bytes(range(32))


class Store:
    """The highest reading, and what happened in which order."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.highest = (0, 0)
        self.fault: Exception | None = None

    def load(self) -> tuple[int, int]:
        return self.highest

    def save(self, boot: int, number: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.highest = (boot, number)
        self.log.append(("saved", boot, number))


class Desk:
    """A PTY with a board's session on its master side, and a link to its slave."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.path = os.ttyname(self.slave)
        self.log: list[Any] = []
        self.store = Store(self.log)
        self.changed = asyncio.Event()
        self.answers = True
        self.board = BoardSession(
            board_id="th01", key=key, key_version=1, boot=1, random=os.urandom
        )
        asyncio.get_running_loop().add_reader(self.master, self._on_bytes)
        self.link = self.new_link()
        self.task: asyncio.Task[None] | None = None

    def new_link(self, on_event: Callable[[BoardEvent], None] | None = None) -> BoardLink:
        return BoardLink(
            BoardPort(path=self.path, reset_on_open=True),
            new_session=self._new_session,
            store=self.store,
            on_event=on_event or self.note,
            tap=lambda direction, chunk: self.log.append((direction, chunk)),
        )

    def _new_session(self, highest: tuple[int, int]) -> HostSession:
        return HostSession(
            host_id="pi01",
            board_id="th01",
            key=key,
            key_version=1,
            random=os.urandom,
            highest=highest,
            timing=Timing(handshake_retry_ms=100, ping_ms=100, silence_ms_max=400),
        )

    def start(self) -> None:
        self.task = asyncio.create_task(self.link.run())

    def note(self, event: BoardEvent) -> None:
        self.log.append(event)
        self.changed.set()

    def _on_bytes(self) -> None:
        try:
            data = os.read(self.master, 4096)
        except OSError:
            return
        if self.answers:
            self.board.receive(data, monotonic_ms())
            self.flush()
        self.changed.set()

    def flush(self) -> None:
        os.write(self.master, self.board.data_to_send())

    def sample(self) -> None:
        self.board.sample((1, -2), monotonic_ms())
        self.flush()

    def of(self, kind: type[Any]) -> list[Any]:
        return [item for item in self.log if isinstance(item, kind)]

    @property
    def boots(self) -> list[int]:
        """The boot counter of each session that began."""
        return [event.boot for event in self.of(Connected)]

    @staticmethod
    def is_ack(item: Any) -> bool:
        frame = decode_line(item[1]) if isinstance(item, tuple) and item[0] == "to-board" else None
        return isinstance(frame, Frame) and frame.kind == kind_ack

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(deadline_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.master)
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        os.close(self.master)
        os.close(self.slave)


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    try:
        yield made
    finally:
        await made.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_a_reading_is_delivered_then_saved_then_acknowledged() -> None:
    """The board forgets only what is safe with the host: in this order, always."""

    async def scenario() -> None:
        async with desk() as at:
            at.start()
            await at.until(lambda: at.boots == [1])
            at.log.clear()
            at.sample()
            await at.until(lambda: len(at.board.held) == 0)
            heard, saved = (at.log.index(item) for item in (at.of(Taken)[0], ("saved", 1, 1)))
            assert heard < saved
            assert not any(at.is_ack(item) for item in at.log[:saved])
            assert any(at.is_ack(item) for item in at.log[saved:])

    run(scenario())


def test_what_the_caller_raises_ends_the_link() -> None:
    """A full disk or a bug is not mistaken for a fault of the line, nor swallowed."""

    async def scenario() -> None:
        async with desk() as at:
            at.store.fault = OSError(28, "No space left on device")
            at.start()
            await at.until(lambda: at.boots == [1])
            at.sample()
            assert at.task is not None
            with pytest.raises(OSError, match="No space"):
                await asyncio.wait_for(at.task, deadline_s)
            assert len(at.board.held) == 1

    run(scenario())


def test_a_silent_board_is_tried_again_until_it_answers() -> None:
    """Silence is reported once, with its reason, and ends the moment that the board answers."""

    async def scenario() -> None:
        async with desk() as at:
            at.start()
            await at.until(lambda: at.boots == [1])
            at.answers = False
            await at.until(lambda: Disconnected("silent") in at.log)
            at.answers = True
            await at.until(lambda: at.boots == [1, 1])

    run(scenario())


def test_a_line_that_does_not_drain_holds_up_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes never block, and what waits is bounded; the rest is dropped and said again."""

    async def scenario() -> None:
        async with desk() as at:
            monkeypatch.setattr(uart, "unsent_bytes_max", 300)
            full = asyncio.Event()

            def refuse(descriptor: int, data: bytes) -> int:
                if len(data) > 200:
                    full.set()
                assert len(data) <= 300
                raise BlockingIOError

            monkeypatch.setattr("gateway.serial.uart.os.write", refuse)
            at.start()
            await asyncio.wait_for(full.wait(), deadline_s)
            monkeypatch.undo()
            await at.until(lambda: at.boots == [1])

    run(scenario())


def test_ports_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    """Absent, not a port, or not ours alone."""
    plain = tmp_path / "plain"
    plain.write_text("")
    for port, reason in (
        (BoardPort(path=str(tmp_path / "none")), "absent"),
        (BoardPort(path=str(plain)), "port"),
    ):
        with pytest.raises(PortFault) as caught:
            port.open()
        assert caught.value.reason == reason
    master, slave = os.openpty()
    port = BoardPort(path=os.ttyname(slave))
    with port.open() as line:
        assert not os.get_blocking(line.fileno())
        with pytest.raises(PortFault) as caught:
            port.open()
        assert caught.value.reason == "busy"
    port.open().close()
    os.close(master)
    os.close(slave)


def test_a_port_that_goes_while_it_is_opened_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal's errors are no OSErrors: one of them must not end the line for good."""

    def pulled_out(*_: object) -> None:
        raise termios.error(errno.EIO, "Input/output error")

    async def scenario() -> None:
        async with desk() as at:
            monkeypatch.setattr(termios, "tcflush", pulled_out)
            at.start()
            await at.until(lambda: Disconnected("port") in at.log)
            monkeypatch.undo()
            await at.until(lambda: at.boots == [1])

    run(scenario())
