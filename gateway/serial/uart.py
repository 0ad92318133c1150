"""The line to one sensor board, kept for as long as wanted: unplugged, silent or rebooted, it
comes back.

Lives here: the event loop's side of the line, time and reopening. What is said is `host_session`,
how a port is found and opened `serial_port`.

pyserial opens and locks the port; reads and writes go past it, straight to the descriptor, because
its non-blocking write spins while the line is full.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import serial

from gateway.serial.frames import LineSplitter
from gateway.serial.host_session import Console, HostSession, Taken, Timing
from gateway.serial.port import BoardPort, PortFault
from gateway.serial.session import Refused, Up

__all__ = [
    "BoardEvent",
    "BoardLink",
    "Connected",
    "Disconnected",
    "Gap",
    "HighestStore",
    "Reading",
    "Refusal",
    "Tap",
    "Told",
]

read_bytes_max = 4096
# What a line that does not drain may hold up; sessions repeat what is dropped beyond it.
unsent_bytes_max = 16_384
reopen_ms_min = 100
reopen_ms_max = 1_000
# The session's clock is asked to act this often, in ms.
tick_ms = 100


@dataclass(frozen=True, slots=True)
class Connected:
    """The board proved itself: a new session, on opening, after its reboot, or to re-key."""

    board_id: str
    boot: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The line is lost, told at once and whenever the `reason` (as in `Gap`) changes."""

    board_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gap:
    """The line is back after `seconds` without it. `reason` is why it went at first: `absent`,
    `busy`, `hangup`, `silent`, `no-answer`, `wrong-board`, `bad-proof`, `key-version`,
    `boot-rollback`, `ambiguous`, `port`.
    """

    board_id: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading, delivered once: (boot, number) grows strictly.

    `missed` (at least) so many before it are gone for ever. `at_ms` counts from the board's boot;
    `sampled_ms` is the same moment on the link's clock within `uncertainty_ms`, both None for a
    reading of an earlier boot.
    """

    board_id: str
    boot: int
    number: int
    at_ms: int
    values: tuple[int, ...]
    missed: int
    sampled_ms: int | None
    uncertainty_ms: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A frame that was refused: an attack, or a board that is not ours. Noise is only counted."""

    board_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Told:
    """Unauthenticated text on the line, for the board's log: greeting, traceback."""

    board_id: str
    text: str


BoardEvent = Connected | Disconnected | Gap | Reading | Refusal | Told

# (direction "to-board" or "from-board", one chunk of the line without its 0x00)
Tap = Callable[[str, bytes], None]


class HighestStore(Protocol):
    """Remembers across power loss the highest (boot, number) taken from one board."""

    def load(self) -> tuple[int, int]:
        """(0, 0) at first."""
        ...

    def save(self, boot: int, number: int) -> None:
        """Durable when it returns: the board forgets these readings next."""
        ...


def monotonic_ms() -> int:
    """The steady clock that sessions run on by default."""
    return time.monotonic_ns() // 1_000_000


class BoardLink:
    """One board, for as long as `run` runs: whatever happens to the cable, it comes back.

    `on_event` is called in the event loop's thread and must not block. A reading counts as taken
    when `on_event` returned and `store.save` did; a crash between the two delivers it once more,
    so the caller's own record of (boot, number) must be idempotent. What `on_event` raises ends
    `run`.
    """

    def __init__(
        self,
        port: BoardPort,
        *,
        host_id: str,
        board_id: str,
        key: bytes,
        key_version: int,
        store: HighestStore,
        on_event: Callable[[BoardEvent], None],
        tap: Tap | None = None,
        timing: Timing | None = None,
        clock_ms: Callable[[], int] = monotonic_ms,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._port = port
        self._host_id = host_id
        self._board_id = board_id
        self._key = key
        self._key_version = key_version
        self._store = store
        self._on_event = on_event
        self._tap = tap
        self._timing = timing
        self._clock_ms = clock_ms
        self._random = random
        # Since when, and why, the line is gone.
        self._gap: tuple[int, str] | None = None
        self._reason = ""
        self._counted: dict[str, int] = {}  # over the sessions that have ended
        self._session: HostSession | None = None

    @property
    def counters(self) -> dict[str, int]:
        """Refusals, noise and repeats by reason, over all sessions."""
        now = self._session.counters if self._session is not None else {}
        words = [*self._counted, *(word for word in now if word not in self._counted)]
        return {word: self._counted.get(word, 0) + now.get(word, 0) for word in words}

    async def run(self) -> None:
        """Until cancelled."""
        wait_ms = reopen_ms_min
        while True:
            lost_ms = self._clock_ms()
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
                    lost_ms = self._clock_ms()
            self._lose(lost_ms, reason)
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(2 * wait_ms, reopen_ms_max)

    async def _hold(self, line: serial.Serial) -> tuple[str, bool]:
        """Talk until the line is lost: (why, whether the board had proved itself)."""
        session = HostSession(
            host_id=self._host_id,
            board_id=self._board_id,
            key=self._key,
            key_version=self._key_version,
            random=self._random,
            highest=self._store.load(),
            timing=self._timing,
        )
        self._session = session
        talk = _Talk(
            descriptor=line.fileno(),
            session=session,
            clock_ms=self._clock_ms,
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
            self._on_event(Disconnected(self._board_id, reason))

    def _deliver(self, event: Up | Taken | Refused | Console) -> None:
        board_id = self._board_id
        match event:
            case Up(boot=boot):
                if self._gap is not None:
                    since_ms, reason = self._gap
                    self._gap = None
                    self._reason = ""
                    seconds = (self._clock_ms() - since_ms) / 1000
                    self._on_event(Gap(board_id, reason, seconds))
                self._on_event(Connected(board_id, boot))
            case Taken(reading=taken):
                self._on_event(
                    Reading(
                        board_id,
                        taken.boot,
                        taken.number,
                        taken.at_ms,
                        taken.values,
                        event.missed,
                        event.sampled_ms,
                        event.uncertainty_ms,
                    )
                )
            case Refused(reason=reason):
                self._on_event(Refusal(board_id, reason))
            case Console(text=text):
                self._on_event(Told(board_id, text))


@dataclass(slots=True)
class _Cut:
    """Cuts one direction into chunks for the tap."""

    direction: str
    tap: Tap
    splitter: LineSplitter = field(default_factory=LineSplitter)

    def pass_on(self, data: bytes) -> None:
        for chunk, _ in self.splitter.feed(data):
            self.tap(self.direction, chunk)


class _Talk:
    """One opened port in the event loop, until it is lost."""

    def __init__(
        self,
        *,
        descriptor: int,
        session: HostSession,
        clock_ms: Callable[[], int],
        deliver: Callable[[Up | Taken | Refused | Console], None],
        store: HighestStore,
        tap: Tap | None,
    ) -> None:
        self._descriptor = descriptor
        self._session = session
        self._clock_ms = clock_ms
        self._deliver = deliver
        self._store = store
        self._from_board = _Cut("from-board", tap) if tap else None
        self._to_board = _Cut("to-board", tap) if tap else None
        self._unsent = b""
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = self._loop.create_future()

    async def until_lost(self) -> str:
        """The reason for which the line is gone; raises what a callback raised."""
        self._loop.add_reader(self._descriptor, self._guarded, self._read)
        self._session.start(self._clock_ms())
        self._guarded(self._write)
        while not self._lost.done():
            await asyncio.wait([self._lost], timeout=tick_ms / 1000)
            self._guarded(self._tick)
        return self._lost.result()

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        if self._lost.done() and not self._lost.cancelled():
            self._lost.exception()  # seen, so that the loop does not complain

    def _guarded(self, step: Callable[[], None]) -> None:
        """The event loop would only log what a callback raises."""
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
        for lost in self._session.tick(self._clock_ms()):
            self._lose(lost.reason)
        self._write()

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, read_bytes_max)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a PTY whose other side went says EIO, a USB port may say either
        if not data:
            self._lose("hangup")
            return
        if self._from_board:
            self._from_board.pass_on(data)
        highest: tuple[int, int] | None = None
        for event in self._session.receive(data, self._clock_ms()):
            self._deliver(event)
            if isinstance(event, Taken):
                highest = event.reading.id
        if highest is not None:
            # Persist, then acknowledge: the board forgets only what is safe here.
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
