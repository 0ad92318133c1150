"""The line to one sensor board. It is reopened when the board was unplugged, silent or rebooted.

Reading and writing in the event loop, time and reopening live here. The messages are in
`host_session`. `port` finds and opens the port.

pyserial opens and locks the port. Reads and writes use the descriptor directly, because pyserial's
non-blocking write spins while the line is full.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import serial

from gateway.serial.frames import LineSplitter
from gateway.serial.host_session import Event, HostSession, Taken
from gateway.serial.port import BoardPort, PortFault
from gateway.serial.session import Connected

__all__ = ["BoardEvent", "BoardLink", "Disconnected", "Gap", "HighestStore", "Tap"]

read_bytes_max = 4096
# Bytes that wait for a line that does not drain. More is dropped: sessions repeat it.
unsent_bytes_max = 16_384
reopen_ms_min = 100
reopen_ms_max = 1_000
# How often `HostSession.tick` is called.
tick_ms = 100


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The line is lost. Sent at once, and again whenever the `reason` (as in `Gap`) changes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Gap:
    """The line is back after `seconds`. `reason` is why it was lost at first: `absent`, `busy`,
    `hangup`, `silent`, `no-answer`, `wrong-board`, `bad-proof`, `key-version`, `boot-rollback` or
    `port`.
    """

    reason: str
    seconds: float


BoardEvent = Event | Disconnected | Gap

Direction = Literal["to-board", "from-board"]
# Gets each chunk of the line, without its 0x00.
Tap = Callable[[Direction, bytes], None]


class HighestStore(Protocol):
    """Keeps the highest (boot, number) taken from one board, also across power loss."""

    def load(self) -> tuple[int, int]:
        """(0, 0) at first."""

    def save(self, boot: int, number: int) -> None:
        """Must be durable when it returns: the board then forgets these readings."""


def monotonic_ms() -> int:
    """The clock of sessions: steady, in ms."""
    return time.monotonic_ns() // 1_000_000


class BoardLink:
    """The link to one board while `run` runs. It survives all troubles of the cable.

    `new_session(highest)` makes the session of a port that was opened; `highest` is what `store`
    holds. `on_event` is called in the event loop's thread and must not block. A reading is taken
    when `on_event` and then `store.save` have returned. A crash between the two delivers the
    reading again, so the caller's own record of (boot, number) must be idempotent. An exception
    from `on_event` ends `run`.
    """

    def __init__(
        self,
        port: BoardPort,
        *,
        new_session: Callable[[tuple[int, int]], HostSession],
        store: HighestStore,
        on_event: Callable[[BoardEvent], None],
        tap: Tap | None = None,
    ) -> None:
        self._port = port
        self._new_session = new_session
        self._store = store
        self._on_event = on_event
        self._tap = tap
        # When and why the line was lost.
        self._gap: tuple[int, str] | None = None
        self._reason = ""
        self._counted: dict[str, int] = {}  # over the sessions that have ended
        self._session: HostSession | None = None

    @property
    def counters(self) -> dict[str, int]:
        """Refusals, noise and repetitions by reason, over all sessions."""
        now = self._session.counters if self._session is not None else {}
        words = [*self._counted, *(word for word in now if word not in self._counted)]
        return {word: self._counted.get(word, 0) + now.get(word, 0) for word in words}

    async def run(self) -> None:
        """Runs until cancelled."""
        wait_ms = reopen_ms_min
        while True:
            lost_ms = monotonic_ms()
            try:
                line = self._port.open()
            except PortFault as fault:
                reason = fault.reason
            else:
                try:
                    reason, was_up = await self._hold(line)
                finally:
                    line.close()
                if was_up:
                    wait_ms = reopen_ms_min
                    lost_ms = monotonic_ms()
            self._lose(lost_ms, reason)
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(2 * wait_ms, reopen_ms_max)

    async def _hold(self, line: serial.Serial) -> tuple[str, bool]:
        """Exchanges frames until the line is lost: (why, whether the board had proved its key)."""
        self._session = session = self._new_session(self._store.load())
        talk = _Talk(
            descriptor=line.fileno(),
            session=session,
            deliver=self._deliver,
            store=self._store,
            tap=self._tap,
        )
        try:
            reason = await talk.until_lost()
        finally:
            talk.close()
            self._counted, self._session = self.counters, None
        return reason, session.is_up

    def _lose(self, since_ms: int, reason: str) -> None:
        if self._gap is None:
            self._gap = (since_ms, reason)
        if reason != self._reason:
            self._reason = reason
            self._on_event(Disconnected(reason))

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Connected) and self._gap is not None:
            since_ms, reason = self._gap
            self._gap = None
            self._reason = ""
            self._on_event(Gap(reason, (monotonic_ms() - since_ms) / 1000))
        self._on_event(event)


@dataclass(slots=True)
class _Cut:
    """Cuts the bytes of one direction into chunks for the tap."""

    direction: Direction
    tap: Tap
    splitter: LineSplitter = field(default_factory=LineSplitter)

    def pass_on(self, data: bytes) -> None:
        for chunk, _ in self.splitter.feed(data):
            self.tap(self.direction, chunk)


class _Talk:
    """One opened port in the event loop until it is lost."""

    def __init__(
        self,
        *,
        descriptor: int,
        session: HostSession,
        deliver: Callable[[Event], None],
        store: HighestStore,
        tap: Tap | None,
    ) -> None:
        self._descriptor = descriptor
        self._session = session
        self._deliver = deliver
        self._store = store
        self._from_board = _Cut("from-board", tap) if tap else None
        self._to_board = _Cut("to-board", tap) if tap else None
        self._unsent = b""
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = self._loop.create_future()

    async def until_lost(self) -> str:
        """Returns why the line was lost. Raises what a callback raised."""
        self._loop.add_reader(self._descriptor, self._guarded, self._read)
        self._session.start(monotonic_ms())
        self._guarded(self._write)
        while not self._lost.done():
            await asyncio.wait([self._lost], timeout=tick_ms / 1000)
            self._guarded(self._tick)
        return self._lost.result()

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        if self._lost.done() and not self._lost.cancelled():
            self._lost.exception()  # marks it as seen, or the event loop would log it

    def _guarded(self, step: Callable[[], None]) -> None:
        """Keeps what `step` raises: the event loop would only log it."""
        if self._lost.done():
            return
        try:
            step()
        except Exception as error:
            if not self._lost.done():
                self._lost.set_exception(error)

    def _lose(self, reason: str) -> None:
        self._loop.remove_reader(self._descriptor)
        if not self._lost.done():
            self._lost.set_result(reason)

    def _tick(self) -> None:
        reason = self._session.tick(monotonic_ms())
        if reason is not None:
            self._lose(reason)
        self._write()

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, read_bytes_max)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a PTY whose other side is closed gives EIO; a USB port may give either
        if not data:
            self._lose("hangup")
            return
        if self._from_board:
            self._from_board.pass_on(data)
        highest: tuple[int, int] | None = None
        for event in self._session.receive(data, monotonic_ms()):
            self._deliver(event)
            if isinstance(event, Taken):
                highest = event.reading.id
        if highest is not None:
            # Persist, then acknowledge: the board forgets only what is saved here.
            self._store.save(*highest)
            self._session.acknowledge()
        self._write()

    def _write(self) -> None:
        fresh = self._session.data_to_send()
        if fresh and len(self._unsent) + len(fresh) <= unsent_bytes_max:
            self._unsent += fresh
            if self._to_board:
                self._to_board.pass_on(fresh)
        if not self._unsent:
            return
        try:
            written = os.write(self._descriptor, self._unsent)
        except BlockingIOError:
            written = 0
        except OSError:
            self._lose("hangup")
            return
        self._unsent = self._unsent[written:]
        if self._unsent:
            self._loop.add_writer(self._descriptor, self._guarded, self._write)
        else:
            self._loop.remove_writer(self._descriptor)
