"""Sends readings as data operations, one after the other, each until the chain has answered.

One at a time because counters must rise: an overtaken operation would be refused. Readings wait in
a backlog on disk; an operation that was signed and not answered when the power failed is carried
on by the courier, and its reading is struck off when the answer comes.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from chain.keys import digest
from chain.operations import Data
from chain.statement import OK, Statement
from gateway.outbox import Outbox, OutboxFullError
from nodes.device import Device, Refused
from nodes.events import EventLog
from nodes.login import Login

__all__ = ["Reading", "Sender"]

BACKLOG_READINGS_MAX = 10_000


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


class Sender:
    """`boards` maps board names to their node ids once they are sponsored."""

    def __init__(
        self, path: Path, device: Device, service: str, timeout_ms: int, events: EventLog
    ) -> None:
        self.boards: dict[str, bytes] = {}
        self._backlog = Outbox(path, entries_max=BACKLOG_READINGS_MAX)
        self._device = device
        self._service = service
        self._timeout_ms = timeout_ms
        self._events = events
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()

    def put(self, reading: Reading) -> None:
        """Durable on return; the same reading twice is one."""
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

    async def run(self, login: Login) -> None:
        """Until cancelled."""
        for request, operation in self._device.unanswered():
            payload = operation.payload if isinstance(operation, Data) else b""
            try:
                self._answered(await self._device.answer_to(request), payload)
            except Refused as refusal:
                self._refused(refusal, payload)
        while True:
            entries = self._backlog.pending(limit=1)
            if not entries:
                self._empty.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._send(login, entries[0].payload)

    async def _send(self, login: Login, payload: bytes) -> None:
        reading = msgspec.json.decode(payload, type=Reading)
        board = self.boards.get(reading.board) if reading.board is not None else None
        operation = Data(
            network=self._device.genesis.network,
            node=self._device.node,
            counter=self._device.state.next_counter(),
            service=self._service,
            payload=payload,
            board=board,
            time_us=(reading.sampled_ns or reading.due_ns) // 1000,
            clock="ntp",
        )
        late = asyncio.get_running_loop().call_later(
            max(0.0, self._timeout_ms / 1000 - _age_s(reading)), self._late, reading
        )
        try:
            statement = await self._device.request(login, operation)
            self._answered(statement, payload)
        except Refused as refusal:
            self._refused(refusal, payload)
        finally:
            late.cancel()

    def _answered(self, statement: Statement, payload: bytes) -> None:
        if payload:
            reading = msgspec.json.decode(payload, type=Reading)
            self._events.emit(
                "data" if statement.status == OK else "data-refused",
                id=statement.request.hex(),
                latency_ms=_age_s(reading) * 1000,
                intended_ns=reading.due_ns,
                counter=statement.counter,
                source=reading.board,
                status=statement.status,
            )
        self._backlog.done(digest(payload))

    def _refused(self, refusal: Refused, payload: bytes) -> None:
        self._events.emit("denied", reason=refusal.reason)
        self._backlog.done(digest(payload))

    def _late(self, reading: Reading) -> None:
        self._events.emit("late", intended_ns=reading.due_ns, source=reading.board)


def _age_s(reading: Reading) -> float:
    return (time.time_ns() - reading.due_ns) / 1e9
