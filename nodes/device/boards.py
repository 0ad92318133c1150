"""The serial lines of an environmental device.

The device sponsors each board on the chain, then signs and sends the board's readings. The messages
on a line are in `gateway.serial.host_session`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, assert_never

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chain.keys import Es256Signer
from chain.ledger.operations import EnrolBoard
from chain.ledger.possession import board_node, board_statement
from chain.ledger.statement import OK
from gateway.bridge.outbox import OutboxFullError
from gateway.serial.host_session import Console, HostSession, Taken
from gateway.serial.port import BoardPort
from gateway.serial.session import Connected, RefusedFrame
from gateway.serial.uart import BoardEvent, BoardLink, Disconnected, Gap
from gateway.tasks import Tasks, first_of
from nodes.device.device import STALE, Device, Refused
from nodes.device.login import Login
from nodes.device.sender import SPONSORED, Reading, Sender
from nodes.device.wall_clock import wall_clock_quality
from nodes.disk import write_atomically
from nodes.edge_config import BoardConfig
from nodes.events import CountedEvents, EventLog

__all__ = ["Boards", "board_signer"]

LOG_BYTES_MAX = 16 * 1024 * 1024  # of the log of one line
COUNTS_PERIOD_S = 1.0
LINE_RETRY_S = 1.0
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def board_signer(secret: bytes) -> Es256Signer:
    """The key that proves a board's secret to the chain; the board itself knows no public keys."""
    derived = HKDF(hashes.SHA256(), 48, salt=None, info=b"m2m/1 board key").derive(secret)
    scalar = int.from_bytes(derived, "big") % (_P256_ORDER - 1) + 1
    return Es256Signer(ec.derive_private_key(scalar, ec.SECP256R1()))


class Boards:
    """The serial lines of one device."""

    def __init__(self, configs: tuple[BoardConfig, ...], state: Path, service: str) -> None:
        self._configs = configs
        self._state = state
        self._service = service

    @contextlib.asynccontextmanager
    async def readings(
        self, events: EventLog, device: Device, sender: Sender, login: Login, since_ns: int
    ) -> AsyncIterator[None]:
        """Serves the lines while the block lasts. Readings that were sampled before `since_ns`
        (wall time) are taken from the boards and not sent."""
        async with Tasks() as tasks:
            for config in self._configs:
                refused = CountedEvents(events, "serial-refused")
                line = _Line(config, self._state, self._service, events, refused, device, sender)
                tasks.start(line.keep(login, since_ns))
            yield


class _Line(msgspec.Struct, frozen=True):
    """One board and its serial line."""

    config: BoardConfig
    state: Path
    service: str
    events: EventLog
    refused: CountedEvents  # frames; anybody on the line can send thousands a second
    device: Device
    sender: Sender

    async def keep(self, login: Login, since_ns: int) -> None:
        """Serves the line for ever. A full disk or a full backlog closes it for a moment: the board
        keeps what was not acknowledged. A board that the chain refuses is not read."""
        if not await self._sponsor(login):
            return
        sponsored_ns, reported = time.time_ns(), ""
        while True:
            try:
                await self._serve(since_ns, sponsored_ns)
            except (OSError, OutboxFullError) as error:
                if (reason := f"waiting: {error}") != reported:
                    self._emit(reason)
                reported = reason
            await asyncio.sleep(LINE_RETRY_S)

    async def _serve(self, since_ns: int, sponsored_ns: int) -> None:
        """Runs until cancelled. Raises OSError, OutboxFullError."""
        config, name = self.config, self.config.name
        store = _Highest(self.state / f"{name}.highest.json", lambda: self.sender.taken(name))
        began = _RunStart(since_ns, store)
        key = Path(config.key).read_bytes()

        def new_session(highest: tuple[int, int]) -> HostSession:
            return HostSession(
                host_id=self.device.node.hex()[:16],
                board_id=name,
                key=key,
                key_version=config.key_version,
                random=os.urandom,
                highest=highest,
            )

        with _LineLog(Path(config.log) if config.log else None) as log:
            link = BoardLink(
                BoardPort(path=config.port, baud=config.baud, reset_on_open=config.reset_on_open),
                new_session=new_session,
                store=store,
                on_event=lambda event: self._on_event(event, sponsored_ns, began, log),
                tap=log.frame,
            )
            await first_of(link.run(), self._report_counts(link, log))

    async def _sponsor(self, login: Login) -> bool:
        """Enrols the board under this device, once; later starts find it done."""
        device, name = self.device, self.config.name
        if name in self.sender.boards:
            return True
        network, board = device.genesis.network, name.encode()
        signer = board_signer(Path(self.config.key).read_bytes())
        node = board_node(network, signer.public)
        flashed = json.loads(Path(self.config.flashed).read_bytes())

        def make(counter: int) -> EnrolBoard:
            return EnrolBoard(
                network=network,
                node=device.node,
                counter=counter,
                board=board,
                firmware=bytes.fromhex(flashed["firmware_sha256"]),
                key_check=bytes.fromhex(flashed["key_check_value"]),
                service=self.service,
                head=device.head,
                key=signer.public,
                possession=signer.sign(board_statement(network, device.node, board, device.head)),
            )

        while True:
            started_ns = time.monotonic_ns()
            async with device.asking(login, make) as answer:
                status = answer.reason if isinstance(answer, Refused) else answer.status
                if status == OK:
                    write_atomically(self.state / f"{name}{SPONSORED}", node.hex().encode())
                    self.sender.boards[name] = node
            if status in STALE:
                await device.fresh_head()
                continue
            if status != OK:
                self._emit("refused", reason=status)
                return False
            self._emit("sponsored", latency_ms=(time.monotonic_ns() - started_ns) / 1e6)
            return True

    async def _report_counts(self, link: BoardLink, log: _LineLog) -> None:
        """Emits the link's counters whenever they changed. Until cancelled, and then once more."""
        reported: dict[str, int] = {}

        def report() -> None:
            nonlocal reported
            self.refused.emit_counts()
            counts = link.counters | ({"log-dropped": log.dropped} if log.dropped else {})
            if counts != reported:
                self.events.emit("serial-counts", board=self.config.name, counts=counts)
                reported = counts

        try:
            while True:
                await asyncio.sleep(COUNTS_PERIOD_S)
                report()
        finally:
            report()

    def _on_event(
        self, event: BoardEvent, sponsored_ns: int, began: _RunStart, log: _LineLog
    ) -> None:
        """Raises OSError, OutboxFullError: a reading that is not on disk is not acknowledged."""
        name = self.config.name
        match event:
            case Connected(boot=boot):
                began.met(boot)
                self._emit("connected", board_boot=boot)
            case Disconnected(reason=reason):
                self._emit(f"lost: {reason}")
            case Gap(reason=reason, seconds=seconds):
                self.events.emit("board-gap", board=name, reason=reason, seconds=seconds)
            case RefusedFrame(reason=reason):
                self.refused.add(reason, board=name, reason=reason)
            case Console(text=text):
                log.text(text)
            case Taken(reading=taken):
                reading = _dated(event, name, sponsored_ns)
                if not began.is_older(event, reading):
                    self.sender.put(reading)
                    return
                self.events.emit(
                    "reading-left-out", board=name, board_boot=taken.boot, number=taken.number
                )
            case _:
                assert_never(event)

    def _emit(self, state: str, **fields: object) -> None:
        self.events.emit("board", board=self.config.name, state=state, **fields)


def _dated(taken: Taken, board: str, sponsored_ns: int) -> Reading:
    """The reading with the wall time at which it was sampled, as far as that is known.

    For a reading of an earlier boot only the board's own clock is known: it gets no wall time. A
    reading from before the board was admitted is due at the admission.
    """
    reading, now_ns, quality = taken.reading, time.time_ns(), wall_clock_quality()
    sampled_ns, error_ms = None, None
    if taken.sampled_ms is not None and taken.uncertainty_ms is not None:
        age_ms = time.monotonic_ns() // 10**6 - taken.sampled_ms
        # Its clock may claim anything. What was not sampled between 1970 and now is undated.
        if -taken.uncertainty_ms <= age_ms <= now_ns // 10**6:
            sampled_ns = now_ns - age_ms * 1_000_000
        if sampled_ns is not None and quality.error_ms_max is not None:
            error_ms = taken.uncertainty_ms + quality.error_ms_max
    return Reading(
        due_ns=max(now_ns if sampled_ns is None else sampled_ns, sponsored_ns),
        sampled_ns=sampled_ns,
        clock="boot" if sampled_ns is None else quality.clock,
        number=reading.number,
        values=reading.values,
        board=board,
        boot=reading.boot,
        board_ms=reading.at_ms,
        uncertainty_ms=error_ms,
    )


class _RunStart:
    """Tells readings of this run from older ones.

    A board samples from its power-on and holds what nobody took. If these readings were sent, they
    would look like load of this run.
    """

    def __init__(self, since_ns: int, store: _Highest) -> None:
        self._since_ns = since_ns
        self._store = store
        self._boot, _ = store.load()

    def met(self, boot: int) -> None:
        """The board has proved its key. Its first boot ever is remembered."""
        if not self._boot:
            self._boot = boot
            self._store.save(boot, 0)

    def is_older(self, taken: Taken, reading: Reading) -> bool:
        if taken.sampled_ms is None:  # of an earlier boot, at an unknown time
            return taken.reading.boot < self._boot
        return reading.sampled_ns is not None and reading.sampled_ns < self._since_ns


class _Highest:
    """The highest (boot, reading) taken from a board, durable (`uart.HighestStore`).

    `in_backlog` was taken too: a power cut or a full disk may keep it out of this file.
    """

    def __init__(self, path: Path, in_backlog: Callable[[], tuple[int, int]]) -> None:
        self._path = path
        self._in_backlog = in_backlog

    def load(self) -> tuple[int, int]:
        try:
            saved = msgspec.json.decode(self._path.read_bytes(), type=tuple[int, int])
        except FileNotFoundError:
            saved = (0, 0)
        return max(self._in_backlog(), saved)

    def save(self, boot: int, number: int) -> None:
        write_atomically(self._path, msgspec.json.encode((boot, number)))


class _LineLog:
    """What passed on the line, as JSON lines. It ends at LOG_BYTES_MAX; `dropped` counts the lines
    after that, and those that a full disk did not take."""

    def __init__(self, path: Path | None) -> None:
        self.dropped = 0
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._file = path.open("ab", buffering=0) if path else None

    def frame(self, direction: str, chunk: bytes) -> None:
        self._write({"t": time.time_ns(), "dir": direction, "frame": chunk.hex()})

    def text(self, text: str) -> None:
        self._write({"t": time.time_ns(), "dir": "from-board", "text": text})

    def _write(self, entry: dict[str, object]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        if self._file is None:
            return
        try:
            if self._file.tell() + len(line) <= LOG_BYTES_MAX:
                self._file.write(line)
                return
        except OSError:
            pass  # on a full disk the line is counted like one above the limit
        self.dropped += 1

    def __enter__(self) -> _LineLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
