"""Sends readings as data operations, one after the other, each until the chain has answered.

One at a time, because counters must rise: an overtaken operation would be refused. Readings wait in
a backlog on disk. If the power fails after an operation was signed and before it is answered, the
courier sends it again; its reading leaves the backlog when the answer comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from chain.keys import digest
from chain.ledger.operations import Data
from chain.ledger.statement import OK
from gateway.bridge.outbox import Outbox, OutboxEntry, OutboxFullError
from nodes.device.device import Answer, Device, Refused
from nodes.device.login import Login
from nodes.events import EventLog

__all__ = ["SPONSORED", "Ended", "Reading", "Sender"]

BACKLOG_READINGS_MAX = 10_000
FULL_RETRY_S = 0.5
SPONSORED = ".sponsored"  # beside the backlog, for each board: the file holds its node id
ENDED = frozenset({"revoked", "renewed", "expired"})


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a data operation carries, as JSON. `due_ns` is when it should be sent (wall time).

    From a board: its name, boot and reading number tell readings apart, `board_ms` is its own
    clock and `sampled_ns` that moment in wall time. `clock` says what that rests on: "ntp", with an
    error of at most `uncertainty_ms`; "none", with an unknown error; "boot", only on the board's
    clock, so there is no wall time. For readings of the device itself, only `number` counts.
    """

    due_ns: int
    number: int
    values: tuple[int, ...]
    board: str | None = None
    boot: int | None = None
    board_ms: int | None = None
    sampled_ns: int | None = None
    clock: Literal["boot", "ntp", "none"] = "none"
    uncertainty_ms: int | None = None


class Ended(Exception):
    """This identity has ended; the message is the registry's reason."""


class Sender:
    """Call `run` when the operations of an earlier process have been answered (`resumed`).

    `boards` has the node id of each board that is on the chain, by name. `transform` changes a
    reading before it is signed; only a switch sets it."""

    def __init__(
        self,
        path: Path,
        device: Device,
        service: str,
        timeout_ms: int,
        events: EventLog,
        *,
        readings_max: int = BACKLOG_READINGS_MAX,
    ) -> None:
        self._backlog = Outbox(path, entries_max=readings_max)
        # Read before anything leaves the backlog.
        self._taken = _highest(self._backlog.pending(limit=readings_max))
        self.boards = _sponsored(path.parent)
        self.transform: Callable[[Reading], Reading] = lambda reading: reading
        self._device = device
        self._service = service
        self._timeout_ms = timeout_ms
        self._events = events
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()

    def taken(self, board: str) -> tuple[int, int]:
        """The highest (boot, number) of a board that was put here, also by an earlier process;
        (0, 0) if none.

        A reading is on disk before it is acknowledged to its board. If the power fails in between,
        the board sends it again, dated a little differently: its payload is another one.
        """
        return self._taken.get(board, (0, 0))

    def put(self, reading: Reading) -> None:
        """Durable on return. Raises OutboxFullError: then the reading was not taken, and must not
        be acknowledged."""
        payload = msgspec.json.encode(self.transform(reading))
        self._backlog.put(digest(payload), "reading", payload)
        if (place := _place(reading)) is not None:
            self._taken[place[0]] = max(place[1], self.taken(place[0]))
        self._empty.clear()
        self._wake.set()

    async def put_when_possible(self, reading: Reading) -> None:
        """Like `put`, but waits while the backlog or the disk is full."""
        reported = False
        while True:
            try:
                return self.put(reading)
            except OutboxFullError as error:
                if not reported:
                    self._events.emit("backlog-full", reason=str(error))
                reported = True
            await asyncio.sleep(FULL_RETRY_S)

    async def drained(self) -> None:
        """Waits until everything that was put so far has been answered."""
        self._wake.set()
        await self._empty.wait()

    def resumed(self, operation: Data, answer: Answer) -> None:
        """An operation of an earlier process was answered."""
        self._answered(answer, operation.payload)
        self._backlog.done(digest(operation.payload))

    async def run(self, login: Login) -> None:
        """Runs until cancelled. Raises Ended."""
        while True:
            entries = await asyncio.to_thread(self._backlog.pending, 0, 1)
            if not entries:
                self._empty.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._send(login, entries[0])

    async def _send(self, login: Login, entry: OutboxEntry) -> None:
        reading = msgspec.json.decode(entry.payload, type=Reading)
        late = asyncio.get_running_loop().call_later(
            max(0.0, self._timeout_ms / 1000 - _age_s(reading)), self._late, reading
        )
        try:
            operation = self._operation(reading, entry.payload)
            due_ns = reading.due_ns
            async with self._device.asking(login, operation, due_ns=due_ns) as answer:
                self._answered(answer, entry.payload)
                await asyncio.to_thread(self._backlog.done, entry.digest)
        finally:
            late.cancel()

    def _operation(self, reading: Reading, payload: bytes) -> Callable[[int], Data]:
        network = self._device.genesis.network
        board = None if reading.board is None else self.boards[reading.board]
        return lambda counter: Data(
            network=network,
            node=self._device.node,
            counter=counter,
            service=self._service,
            payload=payload,
            board=board,
            time_us=_sampled_us(reading),
            clock=reading.clock,
        )

    def _answered(self, answer: Answer, payload: bytes) -> None:
        if isinstance(answer, Refused):
            self._events.emit("denied", reason=answer.reason)
            if answer.reason in ENDED:
                raise Ended(answer.reason)
            return
        reading = msgspec.json.decode(payload, type=Reading)
        self._events.emit(
            "data" if answer.status == OK else "data-refused",
            id=answer.request.hex(),
            latency_ms=_age_s(reading) * 1000,
            intended_ns=reading.due_ns,
            counter=answer.counter,
            source=reading.board,
            status=answer.status,
        )

    def _late(self, reading: Reading) -> None:
        self._events.emit("late", intended_ns=reading.due_ns, source=reading.board)

    def close(self) -> None:
        self._backlog.close()


def _sponsored(directory: Path) -> dict[str, bytes]:
    files = directory.glob(f"*{SPONSORED}")
    return {each.name.removesuffix(SPONSORED): bytes.fromhex(each.read_text()) for each in files}


def _place(reading: Reading) -> tuple[str, tuple[int, int]] | None:
    """The board, and (boot, number) of a board's reading."""
    if reading.board is None or reading.boot is None:
        return None
    return reading.board, (reading.boot, reading.number)


def _highest(entries: Iterable[OutboxEntry]) -> dict[str, tuple[int, int]]:
    readings = (msgspec.json.decode(entry.payload, type=Reading) for entry in entries)
    places = sorted(place for each in readings if (place := _place(each)) is not None)
    return dict(places)  # of one board, the last counts


def _sampled_us(reading: Reading) -> int | None:
    """When it was sampled; None if only the board's own clock tells."""
    if reading.clock == "boot":
        return None
    return (reading.due_ns if reading.sampled_ns is None else reading.sampled_ns) // 1000


def _age_s(reading: Reading) -> float:
    return (time.time_ns() - reading.due_ns) / 1e9
