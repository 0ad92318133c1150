"""Sends readings as data operations, one after the other, each until the chain has answered.

One at a time because counters must rise: an overtaken operation would be refused. Readings wait in
a backlog on disk; an operation that was signed and not answered when the power failed is carried
on by the courier, and its reading is struck off when the answer comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from chain.keys import digest
from chain.ledger.operations import Data
from chain.ledger.statement import OK
from gateway.bridge.outbox import Entry, Outbox, OutboxFullError
from nodes.device.device import Answer, Device, Refused
from nodes.device.login import Login
from nodes.events import EventLog

__all__ = ["Ended", "Reading", "Sender"]

BACKLOG_READINGS_MAX = 10_000
ENDED = frozenset({"revoked", "renewed", "expired"})


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a data operation carries, as JSON. `due_ns` is when it should be sent (wall time).

    From a board: its name, boot and reading number tell readings apart, `board_ms` is its own
    clock and `sampled_ns` that moment in wall time; from a device itself `number` counts.
    """

    due_ns: int
    number: int
    values: tuple[int, ...]
    board: str | None = None
    boot: int | None = None
    board_ms: int | None = None
    sampled_ns: int | None = None
    uncertainty_ms: int | None = None


class Ended(Exception):
    """This identity will not be heard any more, for the reason that the registry gives."""


class Sender:
    """Call `run` when the operations of an earlier life have been answered (`resumed`)."""

    def __init__(
        self, path: Path, device: Device, service: str, timeout_ms: int, events: EventLog
    ) -> None:
        self._backlog = Outbox(path, entries_max=BACKLOG_READINGS_MAX)
        # Looked at before anything is struck off.
        self._taken = _highest(self._backlog.pending(limit=BACKLOG_READINGS_MAX))
        self.boards: dict[str, bytes] = {}  # name -> node id of a board that is on the chain
        self._device = device
        self._service = service
        self._timeout_ms = timeout_ms
        self._events = events
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()

    def taken(self, board: str) -> tuple[int, int]:
        """The highest (boot, number) of a board that an earlier life left here; (0, 0) if none.

        What is put here is on disk before the board is told: after a power cut in between it sends
        the reading again, dated a little differently, so `put` cannot see that it is the same.
        """
        return self._taken.get(board, (0, 0))

    def put(self, reading: Reading) -> None:
        """Durable on return."""
        payload = msgspec.json.encode(reading)
        try:
            self._backlog.put(digest(payload), "reading", payload)
        except OutboxFullError as error:
            self._events.emit("backlog-full", reason=str(error))
            return
        self._empty.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Until everything put so far has been answered."""
        self._wake.set()
        await self._empty.wait()

    def resumed(self, operation: Data, answer: Answer) -> None:
        """An earlier life's operation was answered."""
        self._answered(answer, operation.payload)
        self._backlog.done(digest(operation.payload))

    async def run(self, login: Login) -> None:
        """Until cancelled. Raises Ended."""
        while True:
            entries = await asyncio.to_thread(self._backlog.pending, 0, 1)
            if not entries:
                self._empty.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._send(login, entries[0])

    async def _send(self, login: Login, entry: Entry) -> None:
        reading = msgspec.json.decode(entry.payload, type=Reading)
        late = asyncio.get_running_loop().call_later(
            max(0.0, self._timeout_ms / 1000 - _age_s(reading)), self._late, reading
        )
        try:
            operation = self._operation(reading, entry.payload)
            async with self._device.asking(login, operation) as answer:
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
            time_us=(reading.sampled_ns or reading.due_ns) // 1000,
            clock="ntp",
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


def _highest(entries: Iterable[Entry]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for entry in entries:
        reading = msgspec.json.decode(entry.payload, type=Reading)
        if reading.board is not None and reading.boot is not None:
            place = (reading.boot, reading.number)
            found[reading.board] = max(place, found.get(reading.board, place))
    return found


def _age_s(reading: Reading) -> float:
    return (time.time_ns() - reading.due_ns) / 1e9
