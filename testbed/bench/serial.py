"""`testbed bench serial`: frames/s to the real firmware on a MicroPython interpreter behind a PTY.

Round trips are the protocol's own pings and their answers, under the session's keys. Readings are
sampled every millisecond and acknowledged. The limit is the same exchange with both ends in this
one process, without a line and without MicroPython.
"""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from gateway.serial.board_session import BoardSession
from gateway.serial.host_session import HostSession, Taken, Timing
from gateway.serial.port import BoardPort
from gateway.serial.uart import BoardEvent, BoardLink
from nodes.board.flash import new_key, prepare
from testbed.bench.figures import Spread
from testbed.errors import ConfigurationError, LabFault

__all__ = ["BenchResult", "measure"]

BOARD = "th01"
IN_FLIGHT = 32  # frames of some 40 bytes: well within a PTY's buffer
BAUD = 115_200
ANSWER_S_MAX = 5.0
QUIET_S = 0.2
HELD_S = 1.0  # until the readings that the board held at the start have come
NEVER_MS = 3_600_000
READ_BYTES_MAX = 65_536
# The host sends one ping at every tick, and nothing else by itself.
_EAGER = Timing(ping_ms=0, silence_ms_max=NEVER_MS)
# While a session is renewed the host sends no pings. So an exchange ends before the renewal.
FRAMES_SPARED = 100


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "testbed.bench.serial/1"
    round_trip_ms: Spread  # one at a time
    frames_per_s: float  # both directions together, IN_FLIGHT pings unanswered
    readings_per_s: float  # acknowledged, from a board with a journal
    readings_per_s_without_journal: float
    limit_frames_per_s: float  # both ends in one process
    ratio: float  # frames_per_s / limit_frames_per_s
    frame_bytes: float  # the mean on the line
    uart_frames_per_s: float  # how many such frames a UART of BAUD would carry


def measure(seconds: float, timing: Timing = _EAGER) -> BenchResult:
    """`seconds` for each of the four parts. Raises LabFault, ConfigurationError."""
    limit = _in_one_process(seconds)
    key = new_key()
    with _board(key, period_ms=NEVER_MS) as port, closing(BoardPort(path=str(port)).open()) as line:
        alone = _Pinger(line.fileno(), key, timing).exchange(1, seconds)
        many = _Pinger(line.fileno(), key, timing).exchange(IN_FLIGHT, seconds)
    journal, plain = (
        asyncio.run(_readings(key, seconds, journal=journal)) for journal in (True, False)
    )
    frames_per_s = 2 * len(many.round_trips_ms) / many.took_s
    frame_bytes = many.line_bytes / (2 * len(many.round_trips_ms))
    return BenchResult(
        round_trip_ms=Spread.of(alone.round_trips_ms),
        frames_per_s=round(frames_per_s),
        readings_per_s=round(journal),
        readings_per_s_without_journal=round(plain),
        limit_frames_per_s=round(limit),
        ratio=round(frames_per_s / limit, 3),
        frame_bytes=round(frame_bytes, 1),
        uart_frames_per_s=round(BAUD / 10 / frame_bytes),
    )


def _host(
    key: bytes, highest: tuple[int, int] = (0, 0), timing: Timing | None = None
) -> HostSession:
    return HostSession(
        host_id="bench",
        board_id=BOARD,
        key=key,
        key_version=1,
        random=os.urandom,
        highest=highest,
        timing=timing,
    )


@contextmanager
def _board(key: bytes, *, period_ms: int, journal: bool = True) -> Iterator[Path]:
    """Runs a board process; gives the path of its port."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        directory = Path(scratch)
        prepare(directory, BOARD, key, period_ms=period_ms, journal=journal)
        port = directory / "port"
        argv = [sys.executable, "-m", "nodes.board", "--dir", scratch, "--link", str(port)]
        board = subprocess.Popen(
            [*argv, "--exit-on-stdin-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert board.stdin is not None
        assert board.stdout is not None
        try:
            if not board.stdout.readline():
                said = board.communicate()[1].decode(errors="replace").strip()
                raise ConfigurationError(f"the board does not start: {said}")
            yield port
        finally:
            board.stdin.close()
            board.wait()


class _Exchanged(msgspec.Struct, frozen=True):
    round_trips_ms: list[float]
    line_bytes: int
    took_s: float


class _Pinger:
    """Speaks on an open port. Frames are counted by the zero that ends each."""

    def __init__(self, descriptor: int, key: bytes, timing: Timing) -> None:
        self._descriptor = descriptor
        self._session = session = _host(key, timing=timing)
        self._pings_max = timing.rekey_frames - FRAMES_SPARED
        session.start(_now_ms())
        deadline_s = time.monotonic() + ANSWER_S_MAX
        while not session.is_up:
            if time.monotonic() > deadline_s:
                raise LabFault("the board does not prove itself")
            session.tick(_now_ms())  # says HELLO again: the interpreter may still be starting
            self._send()
            self._take(QUIET_S)
        self._send()
        while self._take(QUIET_S):  # the last frames of the handshake
            self._send()

    def exchange(self, in_flight: int, seconds: float) -> _Exchanged:
        """Sends pings for so long, or as long as the session lasts, with `in_flight` of them
        unanswered. Call it once only."""
        sent_s: list[float] = []
        times: list[float] = []
        carried = 0
        begun_s = time.perf_counter()
        while len(sent_s) < self._pings_max and time.perf_counter() - begun_s < seconds:
            while len(sent_s) - len(times) < in_flight:
                self._session.tick(_now_ms())
                sent_s.append(time.perf_counter())
                carried += self._send()
            data = self._take(ANSWER_S_MAX)
            if not data:
                raise LabFault("the board does not answer any more")
            carried += len(data)
            now_s = time.perf_counter()
            for _ in range(data.count(0)):
                times.append((now_s - sent_s[len(times)]) * 1000)
        took_s = time.perf_counter() - begun_s
        late = 0
        while data := self._take(QUIET_S):
            late += data.count(0)
        if len(times) + late != len(sent_s):
            raise LabFault(f"{len(sent_s)} pings, {len(times) + late} answers")
        _must_be_clean(self._session.counters)
        return _Exchanged(times, carried, took_s)

    def _send(self) -> int:
        data = self._session.data_to_send()
        rest = memoryview(data)
        while rest:
            with suppress(BlockingIOError):
                rest = rest[os.write(self._descriptor, rest) :]
        return len(data)

    def _take(self, wait_s: float) -> bytes:
        if not select.select([self._descriptor], [], [], wait_s)[0]:
            return b""
        data = os.read(self._descriptor, READ_BYTES_MAX)
        if any(isinstance(event, Taken) for event in self._session.receive(data, _now_ms())):
            self._session.acknowledge()  # the first reading, which comes with the session
        return data


def _in_one_process(seconds: float) -> float:
    """Frames/s, both directions together, without a line."""
    key = new_key()
    host = _host(key, timing=_EAGER)
    board = BoardSession(board_id=BOARD, key=key, key_version=1, boot=1, random=os.urandom)
    host.start(_now_ms())

    def turn() -> None:
        board.receive(host.data_to_send(), _now_ms())
        host.receive(board.data_to_send(), _now_ms())

    while not host.is_up:
        turn()
    turn()
    count = 0
    begun_s = time.perf_counter()
    while (took_s := time.perf_counter() - begun_s) < seconds:
        for _ in range(IN_FLIGHT):
            host.tick(_now_ms())
        turn()
        count += IN_FLIGHT
    _must_be_clean(host.counters)
    return 2 * count / took_s


async def _readings(key: bytes, seconds: float, *, journal: bool) -> float:
    """Acknowledged readings/s of a board that samples every millisecond."""
    taken: list[float] = []
    first = asyncio.Event()

    def note(event: BoardEvent) -> None:
        if isinstance(event, Taken):
            taken.append(time.perf_counter())
            first.set()

    with _board(key, period_ms=1, journal=journal) as port:
        link = BoardLink(
            BoardPort(path=str(port)),
            new_session=partial(_host, key),
            store=_Forgetful(),
            on_event=note,
        )
        running = asyncio.ensure_future(link.run())
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await first.wait()
            await asyncio.sleep(HELD_S)
            taken.clear()
            await asyncio.sleep(seconds)
        except TimeoutError:
            raise LabFault("the board sends no readings") from None
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    if len(taken) < 2:
        raise LabFault("the board sends no readings any more")
    return (len(taken) - 1) / (taken[-1] - taken[0])


class _Forgetful:
    """A store that keeps nothing: the bench measures the line, not this machine's disk."""

    def load(self) -> tuple[int, int]:
        return 0, 0

    def save(self, boot: int, number: int) -> None:
        del boot, number


def _must_be_clean(counters: dict[str, int]) -> None:
    if counters:
        raise LabFault(f"frames were lost or refused, so the figures mean nothing: {counters}")


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
