"""The real firmware on the real MicroPython interpreter behind a PTY, pyserial on the other end.

Each story cuts, resets or disturbs the line of a running board and asks for every reading, once,
in order.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.serial.frames import Frame, decode_line
from gateway.serial.host_session import Console, Taken, Timing
from gateway.serial.session import Connected, RefusedFrame
from gateway.serial.uart import (
    Disconnected,
    Gap,
)
from nodes.board.control import ControlError
from nodes.board.flash import new_key
from tests.nodes.board_support import Bench, board, key, story


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

    async def scenario() -> None:
        async with board(tmp_path, board_key=key if side == "host" else new_key()) as bench:
            bench.connect(host_key=key if side == "board" else new_key())
            await bench.until(lambda: bool(bench.of(Disconnected)))
            assert bench.of(Disconnected)[0].reason == "bad-proof"
            assert "bad-proof" in bench.refusals
            assert not bench.of(Connected)
            assert not bench.ids

    asyncio.run(scenario())


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
            lambda: bool(
                {"old-session", "bad-tag"} & {item.reason for item in bench.of(RefusedFrame)}
            )
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
    """The link vanishes, the gap is reported, and what was held arrives after it."""
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
        await bench.until(lambda: any("ValueError" in line.text for line in bench.of(Console)))
        (tmp_path / "boot.txt").write_text("7")
        await bench.booted(8)
        await bench.more_readings()


@story
async def test_two_readers_never_split_the_bytes(tmp_path: Path) -> None:
    """The port is ours alone; the second is refused with that reason."""
    async with board(tmp_path) as bench:
        bench.connect()
        await bench.more_readings()
        second = Bench(tmp_path, bench.process)
        second.connect()
        await second.until(lambda: Disconnected("busy") in second.events)
        await second.disconnect()
        await bench.more_readings()
        bench.assert_nothing_lost_or_repeated()
