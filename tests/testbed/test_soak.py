"""`testbed soak`: what it does is drawn from a seed; what it judges, it can also find broken."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from gateway.serial.frames import encode_frame, tag_bytes
from gateway.serial.session import kind_ack, kind_reading
from gateway.serial.tinycbor import encode
from inventory.load import load_lab, packaged
from testbed.checks.logs import SerialFrame
from testbed.hosts.port import UnitState
from testbed.provision.layout import layout
from testbed.soak.disk import filled, lacking
from testbed.soak.draw import Disturbance, DisturbanceKind, draw
from testbed.soak.judge import away, commands_at_fault, growth, orphans, unsettled
from testbed.soak.operator import Command
from testbed.soak.readings import acknowledged
from testbed.standing.control import ProcessState
from testbed.standing.state import NodeState
from tests.testbed.hosts_support import eventually

NODES = layout(load_lab(packaged("soak")))
SECOND_NS = 1_000_000_000


def state(name: str, **fields: object) -> NodeState:
    process = ProcessState(UnitState.ACTIVE, 1, 0, None)
    whole = {
        "role": "replica",
        "host": name,
        "process": process,
        "since_s": 0.0,
        "height": 10,
        "abstains": False,
        "lag": 0,
        "memory_bytes": 50_000_000,
        "files": 20,
        "disk_bytes": 0,
    }
    return NodeState(name=name, **(whole | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_equal_seeds_give_equal_disturbances_one_after_the_other(seed: int) -> None:
    disturbances = draw(seed, 600, NODES, disk=True)
    assert disturbances == draw(seed, 600, NODES, disk=True)
    assert disturbances != draw(seed + 1, 600, NODES, disk=True)
    assert {each.kind for each in disturbances} == set(DisturbanceKind)
    assert all(a.end_s < b.at_s for a, b in pairwise(disturbances))
    assert disturbances[-1].end_s <= 600


def test_without_a_disk_of_its_own_none_is_filled() -> None:
    kinds = {each.kind for each in draw(1, 600, NODES, disk=False)}
    assert kinds == set(DisturbanceKind) - {DisturbanceKind.DISK_FULL}


def test_time_without_blocks_is_laid_on_the_newest_disturbance_before_it() -> None:
    """Blocks at 0, 1, 2 s, then none until 7 s: four seconds beyond the normal second."""
    kill = Disturbance(0.5, DisturbanceKind.KILL, ("r1",), 0)
    stop = Disturbance(2.5, DisturbanceKind.STOP, ("r2",), 3)
    done = [(kill, SECOND_NS // 2, SECOND_NS // 2), (stop, 5 * SECOND_NS // 2, 6 * SECOND_NS)]
    found = {each.kind: each for each in away([n * SECOND_NS for n in (0, 1, 2, 7, 8)], done)}
    assert (found[DisturbanceKind.STOP].total_s, found[DisturbanceKind.STOP].longest_s) == (
        4.0,
        4.0,
    )
    assert found[DisturbanceKind.KILL].total_s == 0
    assert found[DisturbanceKind.KILL].times == 1


def frame(t: int, kind: int, *fields: object) -> SerialFrame:
    body = bytes((kind, 1)) + bytes(4) + encode([*fields])
    line = encode_frame(body, bytes(tag_bytes)).removesuffix(b"\0")
    return SerialFrame(t=t, dir="", frame=line.hex())


def test_what_was_acknowledged_to_a_board_is_read_from_its_line() -> None:
    """One acknowledgement is for all that came before it; what comes later is still the board's."""
    line = [
        frame(1, kind_reading, 1, 7, 0, [1], [1, 6]),
        frame(2, kind_reading, 1, 8, 0, [1], [1, 7]),
        SerialFrame(t=3, dir="from-board", frame="00ff"),
        frame(4, kind_reading, 1, 9, 0, [1], [1, 8]),
        frame(5, kind_ack, 1, 8, 0),
        frame(9, kind_ack, 1, 9, 0),
    ]
    assert acknowledged("th01", line, until_ns=4) == set()
    assert acknowledged("th01", line, until_ns=5) == {("th01", 1, 7), ("th01", 1, 8)}
    assert ("th01", 1, 9) in acknowledged("th01", line, until_ns=9)


def test_a_gap_before_the_first_disturbance_is_nobody_s() -> None:
    stop = Disturbance(9, DisturbanceKind.STOP, ("r2",), 1)
    (found,) = away([0, 5 * SECOND_NS], [(stop, 9 * SECOND_NS, 10 * SECOND_NS)])
    assert found.total_s == 0


def test_growth_is_reported_per_process_largest_first() -> None:
    first = [state("r1"), state("r2")]
    last = [state("r1", memory_bytes=51_000_000), state("r2", memory_bytes=90_000_000, files=25)]
    largest, other = growth([first, last])
    assert (largest.name, largest.memory_mb, largest.files) == ("r2", 40.0, 5)
    assert (other.name, other.memory_mb, other.files) == ("r1", 1.0, 0)


def test_who_was_given_up_or_lags_is_not_back() -> None:
    given_up = state("r3", process=ProcessState(UnitState.FAILED, None, 6, 3))
    found = unsettled([state("r1"), state("r2", lag=31), given_up], lag_max=30)
    assert found == ["r2 lags by 31 blocks", "r3 is failed"]


def test_a_command_at_fault_is_named_with_what_it_said() -> None:
    good, bad = Command("status", 0, 1.0, ""), Command("device list", 3, 1.0, "internal error")
    assert commands_at_fault([good, bad]) == ["testbed device list: internal error"]


def test_a_process_that_stayed_behind_is_an_orphan(tmp_path: Path) -> None:
    assert list(orphans([tmp_path])) == []
    child = subprocess.Popen(["sleep", "600"], cwd=tmp_path)
    try:
        (found,) = orphans([tmp_path])
        assert f"process {child.pid}:" in found
    finally:
        child.kill()
        child.wait()


@pytest.mark.lab
@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_a_filled_disk_has_no_room_until_it_is_let_go(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    subprocess.run(mount, check=True)
    try:
        with filled(tmp_path), pytest.raises(OSError, match="No space"):
            (tmp_path / "more").write_bytes(bytes(8192))
        (tmp_path / "more").write_bytes(bytes(8192))
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.soak
def test_a_short_soak_is_clean_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The whole way, as a user runs it; its bundle is one like any other."""
    argv = [sys.executable, "-m", "testbed.cli"]
    words = ["soak", "--for", "20s", "--seed", "4", "--out", str(tmp_path), "--json"]
    done = subprocess.run([*argv, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["problems"] == []
    assert said["blocks"] > 0
    assert said["commands"] > 0
    assert said["board_readings"] > 0
    assert sum(each["times"] for each in said["away"]) > 0
    assert json.loads((Path(said["bundle"]) / "soak.json").read_text()) == said
    verify = subprocess.run([*argv, "ledger", "verify", said["bundle"]], check=False)
    assert verify.returncode == 0
    assert subprocess.run([*argv, "verify-bundle", said["bundle"]], check=False).returncode == 0


@pytest.mark.soak
def test_a_soak_that_is_interrupted_cleans_up(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "testbed.cli", "soak", "--for", "10m", "--out", str(tmp_path)]
    with (tmp_path / "said").open("wb") as said:
        child = subprocess.Popen(argv, stderr=said)
    eventually(lambda: b"s: " in (tmp_path / "said").read_bytes(), 180)
    family = psutil.Process(child.pid).children(recursive=True)
    child.terminate()
    assert child.wait(120) == 130
    eventually(lambda: not any(each.is_running() for each in family))
    assert not list(tmp_path.glob("*standing*"))
