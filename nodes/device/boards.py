"""The serial lines of an environmental device: each board is sponsored on the chain, then its
readings are sent, signed by the device. What is said on a line is `gateway.serial.host_session`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chain.keys import Es256Signer
from chain.ledger.operations import EnrolBoard, board_node, board_statement
from chain.ledger.statement import OK
from gateway.serial.host_session import Console, Taken
from gateway.serial.port import BoardPort
from gateway.serial.session import Connected
from gateway.serial.session import Refused as RefusedFrame
from gateway.serial.uart import BoardEvent, BoardLink, Disconnected, Gap
from nodes.device.device import STALE, Device, Refused
from nodes.device.login import Login
from nodes.device.sender import Reading, Sender
from nodes.edge_config import BoardConfig
from nodes.events import EventLog
from nodes.process import write_atomically

__all__ = ["Boards", "board_signer"]

LOG_BYTES_MAX = 16 * 1024 * 1024
COUNTS_PERIOD_S = 1.0
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SPONSORED = ".sponsored"  # the file holds the board's node id


def board_signer(secret: bytes) -> Es256Signer:
    """The key that proves a board's secret to the chain; the board itself knows no public keys."""
    derived = HKDF(hashes.SHA256(), 48, salt=None, info=b"m2m/1 board key").derive(secret)
    scalar = int.from_bytes(derived, "big") % (_P256_ORDER - 1) + 1
    return Es256Signer(ec.derive_private_key(scalar, ec.SECP256R1()))


class Boards:
    """The serial lines: each board is sponsored on the chain, then its readings are sent."""

    def __init__(self, configs: tuple[BoardConfig, ...], state: Path, service: str) -> None:
        self._configs = configs
        self._state = state
        self._service = service

    @contextlib.asynccontextmanager
    async def readings(
        self, events: EventLog, device: Device, sender: Sender, login: Login, since_ns: int
    ) -> AsyncIterator[None]:
        """What boards sampled before `since_ns` (wall time) is taken from them and not sent."""
        for done in self._state.glob(f"*{_SPONSORED}"):
            sender.boards[done.name.removesuffix(_SPONSORED)] = bytes.fromhex(done.read_text())
        lines = [
            asyncio.ensure_future(
                self._serve(config, events, device, sender, login, since_ns=since_ns)
            )
            for config in self._configs
        ]
        for config, line in zip(self._configs, lines, strict=True):
            line.add_done_callback(functools.partial(_tell_failure, events, config.name))
        try:
            yield
        finally:
            for line in lines:
                line.cancel()
            await asyncio.gather(*lines, return_exceptions=True)

    async def _serve(
        self,
        config: BoardConfig,
        events: EventLog,
        device: Device,
        sender: Sender,
        login: Login,
        *,
        since_ns: int,
    ) -> None:
        """Until cancelled. A board that is refused is not read."""
        if not await self._sponsor(config, events, device, sender, login):
            return
        key = Path(config.key).read_bytes()
        sponsored_ns = time.time_ns()
        store = _Highest(self._state / f"{config.name}.highest.json", sender.taken(config.name))
        began = _Began(since_ns, store)
        with _LineLog(Path(config.log) if config.log else None) as log:
            link = BoardLink(
                BoardPort(path=config.port, baud=config.baud, reset_on_open=config.reset_on_open),
                host_id=device.node.hex()[:16],
                board_id=config.name,
                key=key,
                key_version=config.key_version,
                store=store,
                on_event=lambda event: _on_event(
                    event,
                    board=config.name,
                    sponsored_ns=sponsored_ns,
                    began=began,
                    events=events,
                    sender=sender,
                    log=log,
                ),
                tap=log.frame,
            )
            counting = asyncio.ensure_future(_report_counts(events, config.name, link))
            try:
                await link.run()
            finally:
                counting.cancel()

    async def _sponsor(
        self,
        config: BoardConfig,
        events: EventLog,
        device: Device,
        sender: Sender,
        login: Login,
    ) -> bool:
        """Enrol the board under this device, once; later starts find it done."""
        if config.name in sender.boards:
            return True
        done = self._state / f"{config.name}{_SPONSORED}"
        network, board = device.genesis.network, config.name.encode()
        signer = board_signer(Path(config.key).read_bytes())
        node = board_node(network, signer.public)
        flashed = json.loads(Path(config.flashed).read_bytes())

        def make(counter: int) -> EnrolBoard:
            return EnrolBoard(
                network=network,
                node=device.node,
                counter=counter,
                board=board,
                firmware=bytes.fromhex(flashed["firmware_sha256"]),
                key_check=bytes.fromhex(flashed["key_check_value"]),
                service=self._service,
                head=device.head,
                key=signer.public,
                possession=signer.sign(board_statement(network, device.node, board, device.head)),
            )

        while True:
            started_ns = time.monotonic_ns()
            async with device.asking(login, make) as answer:
                status = answer.reason if isinstance(answer, Refused) else answer.status
                if status == OK:
                    write_atomically(done, node.hex().encode())
                    sender.boards[config.name] = node
            if status in STALE:
                await device.fresh_head()
                continue
            if status != OK:
                events.emit("board", board=config.name, state="refused", reason=status)
                return False
            took_ms = (time.monotonic_ns() - started_ns) / 1e6
            events.emit("board", board=config.name, state="sponsored", latency_ms=took_ms)
            return True


async def _report_counts(events: EventLog, board: str, link: BoardLink) -> None:
    """Emits the link's counters whenever they changed. Until cancelled."""
    reported: dict[str, int] = {}
    while True:
        await asyncio.sleep(COUNTS_PERIOD_S)
        if (counts := link.counters) != reported:
            events.emit("serial-counts", board=board, counts=counts)
            reported = counts


def _tell_failure(events: EventLog, board: str, line: asyncio.Future[None]) -> None:
    """One line that fails does not end the relaying, or the other lines."""
    if not line.cancelled() and (error := line.exception()) is not None:
        events.emit("board", board=board, state=f"failed: {error!r}")


def _on_event(
    event: BoardEvent,
    *,
    board: str,
    sponsored_ns: int,
    began: _Began,
    events: EventLog,
    sender: Sender,
    log: _LineLog,
) -> None:
    match event:
        case Connected(boot=boot):
            began.met(boot)
            events.emit("board", board=board, state="connected", board_boot=boot)
        case Disconnected(reason=reason):
            events.emit("board", board=board, state=f"lost: {reason}")
        case Gap(reason=reason, seconds=seconds):
            events.emit("board-gap", board=board, reason=reason, seconds=seconds)
        case RefusedFrame(reason=reason):
            events.emit("serial-refused", board=board, reason=reason)
        case Console(text=text):
            log.text(text)
        case Taken():
            reading = _dated(event, board, sponsored_ns)
            if began.is_older(event, reading):
                events.emit(
                    "reading-left-out", board=board, board_boot=reading.boot, number=reading.number
                )
            else:
                sender.put(reading)


def _dated(taken: Taken, board: str, sponsored_ns: int) -> Reading:
    """The reading with its moment in wall time; a reading of an earlier boot has only now.

    What was sampled before the board was admitted could not be sent then: it is due from there on.
    """
    reading, sampled_ms = taken.reading, taken.sampled_ms
    age_ms = 0 if sampled_ms is None else time.monotonic_ns() // 10**6 - sampled_ms
    sampled_ns = time.time_ns() - age_ms * 1_000_000
    return Reading(
        due_ns=max(sampled_ns, sponsored_ns),
        sampled_ns=sampled_ns,
        number=reading.number,
        values=reading.values,
        board=board,
        boot=reading.boot,
        board_ms=reading.at_ms,
        uncertainty_ms=taken.uncertainty_ms,
    )


class _Began:
    """Where a board stood when this device's life on this chain began.

    A board runs from its power-on and holds what nobody took: readings from before would be sent
    all at once, and be taken for load of this run.
    """

    def __init__(self, since_ns: int, store: _Highest) -> None:
        self._since_ns = since_ns
        self._store = store
        self._boot, _ = store.load()

    def met(self, boot: int) -> None:
        """It has proved itself; the first time ever, its boot is remembered."""
        if not self._boot:
            self._boot = boot
            self._store.save(boot, 0)

    def is_older(self, taken: Taken, reading: Reading) -> bool:
        if taken.sampled_ms is None:  # of an earlier boot: when it was is not known
            return taken.reading.boot < self._boot
        return reading.sampled_ns is not None and reading.sampled_ns < self._since_ns


class _Highest:
    """The highest (boot, reading) taken from a board, durable (`uart.HighestStore`).

    `least` was taken too: a power cut may come before that stands in the file.
    """

    def __init__(self, path: Path, least: tuple[int, int]) -> None:
        self._path = path
        self._least = least

    def load(self) -> tuple[int, int]:
        try:
            return max(
                self._least, msgspec.json.decode(self._path.read_bytes(), type=tuple[int, int])
            )
        except FileNotFoundError:
            return self._least

    def save(self, boot: int, number: int) -> None:
        write_atomically(self._path, msgspec.json.encode((boot, number)))


class _LineLog:
    """What passed on the line, as JSON lines; stops at LOG_BYTES_MAX."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = path.open("a", buffering=1) if path else None
        self._left = LOG_BYTES_MAX

    def frame(self, direction: str, chunk: bytes) -> None:
        self._write({"t": time.time_ns(), "dir": direction, "frame": chunk.hex()})

    def text(self, text: str) -> None:
        self._write({"t": time.time_ns(), "dir": "from-board", "text": text})

    def _write(self, entry: dict[str, object]) -> None:
        line = json.dumps(entry) + "\n"
        self._left -= len(line)
        if self._file is not None and self._left > 0:
            self._file.write(line)

    def __enter__(self) -> _LineLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
