"""The process that is a board, and what flashing writes."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chain.errors import Misuse
from nodes.board.control import ControlError
from nodes.board.flash import firmware_files, firmware_hash, new_key, prepare
from nodes.device.boards import Boards
from nodes.device.device import Device
from nodes.device.login import Login
from nodes.device.sender import Reading, Sender
from nodes.edge_config import BoardConfig
from nodes.events import EventLog, read_events
from tests.nodes.board_support import Bench, board, deadline_s, gone, key, launch, story


class Kept:
    """Where a sender's readings go."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.boards = {"th01": bytes(32)}

    def taken(self, board: str) -> tuple[int, int]:
        del board
        return 0, 0

    def put(self, reading: Reading) -> None:
        self.readings.append(reading)


@pytest.mark.parametrize("end", ["eof", "term", "int", "hup", "kill"])
def test_nothing_outlives_the_board_process(tmp_path: Path, end: str) -> None:
    """However it ends, its interpreter ends too; unless killed, link and socket go."""

    async def scenario() -> None:
        prepare(tmp_path, "th01", key)
        process = await launch(tmp_path, "--exit-on-stdin-eof")
        assert process.stdout is not None
        assert process.stdin is not None
        await process.stdout.readline()
        bench = Bench(tmp_path, process)
        bench.connect()
        await bench.more_readings(1)
        pid = (await bench.do("status"))["interpreter_pid"]
        if end == "eof":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, f"SIG{end.upper()}"))
        returned = await asyncio.wait_for(process.wait(), deadline_s)
        assert returned == (-signal.SIGKILL if end == "kill" else 0)
        await gone(pid)
        await bench.disconnect()
        if end != "kill":
            assert not bench.port.is_symlink()
            assert not (tmp_path / "control.sock").exists()
        # What a kill left behind does not hinder the next start.
        again = await launch(tmp_path)
        assert again.stdout is not None
        assert json.loads(await again.stdout.readline())["ready"]
        again.terminate()
        assert await asyncio.wait_for(again.wait(), deadline_s) == 0

    asyncio.run(scenario())


def test_a_board_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Nothing flashed, a file in the way, a directory in use: exit 2 and the cause."""

    async def refused(directory: Path) -> str:
        process = await launch(directory)
        _, errors = await asyncio.wait_for(process.communicate(), deadline_s)
        assert process.returncode == 2
        return errors.decode()

    async def scenario() -> None:
        assert "no firmware here; flash it first" in await refused(tmp_path)
        prepare(tmp_path, "th01", key)
        (tmp_path / "port").write_text("mine")
        assert "exists and is not a link" in await refused(tmp_path)
        assert (tmp_path / "port").read_text() == "mine"
        (tmp_path / "port").unlink()
        async with board(tmp_path) as bench:
            assert "another process runs this board" in await refused(tmp_path)
            bench.connect()
            await bench.more_readings()

    asyncio.run(scenario())


@story
async def test_control_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """A wrong word or digit is an answer, not an end."""
    async with board(tmp_path) as bench:
        for words in (["explode"], ["inject", "host", "xyz"], ["silence", "maybe"]):
            with pytest.raises(ControlError):
                await bench.do(*words)
        assert (await bench.do("status"))["plugged"]
        for _ in range(2):
            await bench.do("unplug")
        for _ in range(2):
            await bench.do("plug")
        bench.connect()
        await bench.more_readings()


def test_flashing_writes_firmware_and_a_secret_key(tmp_path: Path) -> None:
    """0600, never in the answer, and the same firmware has the same hash."""
    secret = new_key()
    flashed = prepare(tmp_path, "th01", secret)
    assert stat.S_IMODE((tmp_path / "key.bin").stat().st_mode) == 0o600
    assert (tmp_path / "key.bin").read_bytes() == secret
    assert flashed["firmware_sha256"] == firmware_hash()
    assert len(bytes.fromhex(flashed["key_check_value"])) == 8
    assert secret.hex() not in str(flashed)
    for name, content in firmware_files().items():
        assert (tmp_path / name).read_bytes() == content
    (tmp_path / "boot.txt").write_text("41")
    again = prepare(tmp_path, "th01", new_key(), key_version=2)
    assert again["key_check_value"] != flashed["key_check_value"]
    assert (tmp_path / "boot.txt").read_text() == "41"


@pytest.mark.parametrize(
    "wrong", [{"key": b"short"}, {"board_id": ""}, {"board_id": "x" * 33}, {"period_ms": 0}]
)
def test_flashing_refuses_what_no_board_could_use(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Nothing is written then."""
    given = {"board_id": "th01", "key": key, **wrong}
    with pytest.raises(Misuse):
        prepare(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_flashing_says_what_is_wrong_with_a_key_file(tmp_path: Path) -> None:
    """One line and exit code 2, and nothing is written."""
    (tmp_path / "short.key").write_bytes(bytes(31))
    argv = ["--dir", str(tmp_path / "th01"), "--id", "th01", "--key", str(tmp_path / "short.key")]
    done = subprocess.run(
        [sys.executable, "-m", "nodes.board.flash", *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "flash: a board key has 32 bytes, not 31\n")
    assert not (tmp_path / "th01").exists()


@story
async def test_what_was_sampled_before_a_run_began_is_no_load_of_it(tmp_path: Path) -> None:
    """Between runs a board goes on sampling and holds it, over a power loss too."""
    directory, state = tmp_path / "board", tmp_path / "state"
    state.mkdir()
    (state / "th01.sponsored").write_text(bytes(32).hex())
    held = directory / "held.bin"
    async with board(directory) as bench:
        while not held.exists() or held.stat().st_size < 500:
            await asyncio.sleep(0.01)
        await bench.do("reset")
        while (await bench.do("status"))["starts"] < 2 or held.stat().st_size < 2000:
            await asyncio.sleep(0.01)
        since_ns = time.time_ns()
        config = BoardConfig(
            name="th01", port=str(bench.port), key=str(directory / "key.bin"), flashed=""
        )
        events, kept = EventLog(state / "events.jsonl", "env"), Kept()
        device = cast(Device, SimpleNamespace(node=bytes(32)))
        line = Boards((config,), state, "telemetry").readings(
            events, device, cast(Sender, kept), cast(Login, None), since_ns
        )
        async with line, asyncio.timeout(deadline_s):
            while len(kept.readings) < 5:
                await asyncio.sleep(0.01)
        events.close()
    assert all((one.sampled_ns or 0) >= since_ns for one in kept.readings)
    assert {one.boot for one in kept.readings} == {2}
    left_out = [
        e.fields for e in read_events(state / "events.jsonl") if e.event == "reading-left-out"
    ]
    assert {one["board_boot"] for one in left_out} == {1, 2}
