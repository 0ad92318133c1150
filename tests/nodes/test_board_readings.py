"""What an environmental device does with its boards' readings."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.bridge.outbox import Outbox, OutboxFullError
from nodes.device.boards import Boards
from nodes.device.device import Device
from nodes.device.login import Login
from nodes.device.sender import Reading, Sender
from nodes.edge_config import BoardConfig
from nodes.events import EventLog, read_events
from tests.nodes.board_support import board, story


class CutOff(Sender):
    """The power fails when the first reading is on disk, before anything else is written."""

    def put(self, reading: Reading) -> None:
        super().put(reading)
        raise RuntimeError("the power fails")


@story
async def test_a_reading_that_a_power_cut_left_in_the_backlog_is_not_taken_again(
    tmp_path: Path,
) -> None:
    """The board never heard that it has arrived and sends it again: it is one reading."""
    directory, state = tmp_path / "board", tmp_path / "state"
    state.mkdir()
    (state / "th01.sponsored").write_text(bytes(32).hex())
    backlog = state / "backlog.sqlite"
    device = cast(Device, SimpleNamespace(node=bytes(32)))
    login = cast(Login, None)
    async with board(directory) as bench:
        config = BoardConfig(
            name="th01", port=str(bench.port), key=str(directory / "key.bin"), flashed=""
        )
        boards = Boards((config,), state, "telemetry")
        with EventLog(state / "events.jsonl", "env") as events:
            dying = CutOff(backlog, device, "telemetry", 1_000, events)
            with pytest.raises(RuntimeError, match="the power fails"):
                async with boards.readings(events, device, dying, login, 0):
                    await asyncio.Event().wait()
            dying.close()
            again = Sender(backlog, device, "telemetry", 1_000, events)
            taken = state / "th01.highest.json"
            async with boards.readings(events, device, again, login, 0):
                while json.loads(taken.read_bytes())[1] < 5:
                    await asyncio.sleep(0.01)
            again.close()
    box = Outbox(backlog)
    waiting = [json.loads(entry.payload) for entry in box.pending(limit=1_000)]
    box.close()
    numbers = [one["number"] for one in waiting]
    assert numbers == list(range(1, len(numbers) + 1))


class Reluctant(Sender):
    """Cannot keep a reading, several times: the disk or the backlog is full."""

    def __init__(self, *arguments: Any, errors: list[Exception]) -> None:
        super().__init__(*arguments)
        self.errors = errors

    def put(self, reading: Reading) -> None:
        if reading.number % 3 == 0 and self.errors:
            raise self.errors.pop()
        super().put(reading)


@story
async def test_a_reading_that_cannot_be_kept_is_not_acknowledged_and_its_line_comes_back(
    tmp_path: Path,
) -> None:
    """A full disk closes a line for a moment, and not for good. The board sends again."""
    directory, state = tmp_path / "board", tmp_path / "state"
    state.mkdir()
    (state / "th01.sponsored").touch()
    device = cast(Device, SimpleNamespace(node=bytes(32)))
    errors = [OSError(errno.ENOSPC, "No space left on device"), OutboxFullError("count", "full")]
    backlog = state / "backlog.sqlite"
    # Slow enough that its memory holds what it samples while the line is closed on a busy machine.
    async with board(directory, period_ms=200) as bench:
        config = BoardConfig(
            name="th01",
            port=str(bench.port),
            key=str(directory / "key.bin"),
            flashed="",
            log=str(tmp_path / "line.log"),
        )
        with (
            EventLog(state / "events.jsonl", "env") as events,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr("nodes.device.boards.LOG_BYTES_MAX", 1_000)
            sender = Reluctant(backlog, device, "telemetry", 1_000, events, errors=errors)
            boards = Boards((config,), state, "telemetry")
            async with boards.readings(events, device, sender, cast(Login, None), 0):
                while sender.taken("th01")[1] < 9 or "log-dropped" not in said_of(events, state):
                    await asyncio.sleep(0.01)
            sender.close()
    assert errors == []
    box = Outbox(backlog)
    numbers = [json.loads(entry.payload)["number"] for entry in box.pending(limit=1_000)]
    box.close()
    assert numbers == list(range(1, len(numbers) + 1))
    said = [e.fields["state"] for e in read_events(state / "events.jsonl") if e.event == "board"]
    assert [each for each in said if str(each).startswith("waiting")] == [
        "waiting: full",
        "waiting: [Errno 28] No space left on device",
    ]
    assert 500 < (tmp_path / "line.log").stat().st_size <= 1_000, "over all openings of the line"


def said_of(events: EventLog, state: Path) -> str:
    events.flush()
    return (state / "events.jsonl").read_text()
