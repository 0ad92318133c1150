"""The live view: it fits every terminal, says what is struck and what comes, and leaves nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from inventory.load import load_lab
from testbed import cli
from testbed.bundle import LIVE
from testbed.bundle_lock import LOCK
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.kinds import kinds
from testbed.campaign.live import (
    DOWN,
    DeviceNow,
    Live,
    Published,
    ReplicaNow,
    SnapshotMaker,
    read_live,
)
from testbed.campaign.live_text import live_lines
from testbed.campaign.reach import Reach
from testbed.campaign.schedule import ScheduledEvent
from testbed.campaign.screen import LiveScreen
from testbed.campaign.watch import Watch
from testbed.errors import LabFault
from testbed.manifest import RunState
from testbed.provision.deployment import Deployment
from testbed.report.derive import derive_run
from tests.testbed.bundles import Story
from tests.testbed.hosts_support import eventually


def live(replicas: int = 7, devices: int = 12, **fields: Any) -> Live:
    made: dict[str, Any] = {
        "campaign": "quick-start",
        "phase": "fault",
        "elapsed_s": 15.2,
        "total_s": 27.0,
        "struck": ("r1 DOWN (kill-primary), heals in 2 s",),
        "next": "replay in 3 s",
        "attacks": ("replay: 1 of 3 begun, 85 trials",),
        "view": 1,
        "height": 115,
        "p50_ms": 70.4,
        "p99_ms": 1169.6,
        "blocks_per_s": 131.2,
        "answers_per_s": 2400.5,
        "replicas": tuple(
            ReplicaNow(f"r{n}", 1, 115 - n, "executed", n == 2) for n in range(1, replicas + 1)
        ),
        "devices": tuple(DeviceNow(f"phones-{n}", "admitted", n, 70.5) for n in range(devices)),
        "step": "collecting",
    }
    return Live(**(made | fields))


def plain(shown: Live, width: int, height: int) -> list[str]:
    return [line.plain for line in live_lines(shown, width, height)]


def test_seven_replicas_fit_a_terminal_of_80_by_24() -> None:
    lines = plain(live(), 80, 24)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("r") and "executed" in line for line in lines) == 7
    assert "r1 DOWN (kill-primary), heals in 2 s; next: replay in 3 s" in lines
    assert "attack replay: 1 of 3 begun, 85 trials" in lines
    assert any(line.startswith("phase fault") and line.endswith("15 / 27 s") for line in lines)
    assert "devices: 12 admitted; 66 data" in lines  # no room for a table of them
    assert lines[-1] == "collecting"
    assert not [line for line in lines if line.endswith("…")]  # nothing is cut off


def test_a_board_has_no_count_of_its_own() -> None:
    board = DeviceNow("th01", "connected", 0, None, owner=False)
    shown = live(devices=1)
    shown = msgspec.structs.replace(shown, devices=(*shown.devices, board))
    (row,) = (line for line in plain(shown, 80, 40) if line.startswith("th01"))
    assert row.split() == ["th01", "connected"]


def test_while_a_lab_is_set_up_only_that_is_said() -> None:
    setting_up = Live(campaign="", step="starting 4 x replica")
    assert plain(setting_up, 80, 24) == ["starting 4 x replica"]


@pytest.mark.parametrize("height", [1, 4, 8, 12, 24, 60])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_it_fits_whatever_the_terminal_is(width: int, height: int) -> None:
    lines = plain(live(replicas=100, devices=500), width, height)
    assert 0 < len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("quick-start")


def test_what_a_lab_says_cannot_move_the_cursor() -> None:
    lines = plain(live(struck=("r1\x1b[2J DOWN",), step="a\nb"), 80, 24)
    assert not [line for line in lines if "\x1b" in line or "\n" in line]


def test_columns_stay_where_they_are_as_numbers_grow() -> None:
    early = live(devices=1, height=9, view=0)
    late = live(devices=1, height=123_456, view=40)
    for shown in (early, late):
        rows = [line for line in plain(shown, 100, 40) if line.startswith("r3")]
        assert [line.index("executed") for line in rows] == [39]
        (rate,) = [line for line in plain(shown, 100, 40) if line.startswith("view")]
        assert rate.index("blocks/s") == plain(early, 100, 40)[4].index("blocks/s")


class Standing:
    """Where a run stands, as the runner says it."""

    phase = "fault"
    attacked: Counter[str]
    struck: Mapping[str, tuple[ScheduledEvent, tuple[str, ...]]]

    def __init__(self, elapsed_ms: float) -> None:
        self.elapsed_ms = elapsed_ms
        self.attacked, self.struck = Counter(), {}


def test_a_snapshot_says_what_is_struck_and_what_comes_next() -> None:
    lab = load_lab()
    schedule = expand(load_campaign(find_campaign("quick-start")), lab)
    deployment = Deployment(lab, {}, {}, lambda _: None)
    watch = Watch(deployment, Reach(lambda _: None, lambda *_, **__: None))
    events = schedule.only.events
    kill = next(event for event in events if event.category == "fault")
    attack = next(event for event in events if event.category == "attack")
    runner = Standing(kill.at_ms + kill.for_ms - 2000.0)
    runner.struck = {kill.id: (kill, ("r1",))}
    runner.attacked[attack.fault] = 85
    r2 = deployment.node("r2")
    watch.take(r2, json.dumps({"event": "block", "height": 7}))
    phone = next(node for node in deployment.nodes if node.role == "mobile")
    watch.take(phone, json.dumps({"event": "data", "latency_ms": 12.5}))
    now = SnapshotMaker(watch, runner, schedule)()
    assert now.struck == ("r1 DOWN (kill-primary), heals in 2 s",)
    in_s = round((attack.at_ms - runner.elapsed_ms) / 1000)
    assert now.next == f"{attack.fault} in {in_s} s"
    count = sum(event.fault == attack.fault for event in events)
    assert now.attacks == (f"{attack.fault}: 0 of {count} begun, 85 trials",)
    assert (now.height, now.p50_ms, now.total_s) == (7, 12.5, schedule.run_ms / 1000)
    assert [each.name for each in now.replicas if each.primary] == [watch.primary().name]
    assert len(now.devices) == len(watch.devices) + len(watch.boards)


def test_what_takes_processes_down_is_named_as_the_kinds_are() -> None:
    assert set(kinds()) >= DOWN


def test_a_snapshot_is_published_while_a_campaign_goes_on_and_gone_afterwards(
    tmp_path: Path,
) -> None:
    with Published(tmp_path) as published:
        published.step = "starting 4 x replica"
        eventually(lambda: (now := read_live(tmp_path)) is not None and bool(now.step))
        published.look, published.step = live, "collecting"
        eventually(lambda: read_live(tmp_path) == live())
    assert list(tmp_path.iterdir()) == []


def test_only_a_snapshot_is_read(tmp_path: Path) -> None:
    path = tmp_path / LIVE
    path.write_bytes(b"\xff not JSON")
    assert read_live(tmp_path) is None
    path.unlink()
    other = tmp_path / "other"
    other.write_bytes(msgspec.json.encode(live()))
    path.symlink_to(other)
    assert read_live(tmp_path) is None


def test_watch_shows_how_it_stands_or_says_that_nothing_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Story(tmp_path).bundle
    assert cli.main(["watch", str(bundle.path)]) == 2
    assert "nothing goes on here" in capsys.readouterr().err
    with bundle.locked():
        assert cli.main(["watch", str(bundle.path)]) == 0
        assert "opening hosts" in capsys.readouterr().out
        (bundle.path / LIVE).write_bytes(msgspec.json.encode(live()))
        assert cli.main(["watch", str(bundle.path)]) == 0
        shown = capsys.readouterr().out
        assert "r1 DOWN (kill-primary), heals in 2 s; next: replay in 3 s" in shown
        assert cli.main(["watch", str(bundle.path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["phase"] == "fault"
        (bundle.path / LOCK).unlink()  # the campaign goes on
        assert cli.main(["watch", str(bundle.path)]) == 0


def test_watch_stays_until_the_verdict_and_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path)
    derive_run(story.run)
    writing = ExitStack()
    seen = iter([live(), live(), None])

    def look(_: Path) -> Live | None:
        now = next(seen)
        if now is None:
            writing.close()
        return now

    monkeypatch.setattr("testbed.commands.watch.read_live", look)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with writing:
        writing.enter_context(story.bundle.locked())
        assert cli.main(["watch", str(story.bundle.path)]) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].endswith(f"{story.bundle.name} has ended")
    assert last[1] == "run/0000-faults: done, passed"


WRITER = """
import sys, pathlib
from testbed.bundle import Bundle
with Bundle(pathlib.Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["running", "done"])  # done: killed while it judged
def test_watch_ends_when_who_writes_the_bundle_is_killed(
    state: RunState,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = Story(tmp_path).bundle
    bundle.update(0, state=state)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(bundle.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"locked\n"
        (bundle.path / LIVE).write_bytes(msgspec.json.encode(live()))
        seen = 0

        def look(path: Path) -> Live | None:
            nonlocal seen
            if (seen := seen + 1) == 3:
                writer.kill()
                writer.wait()
            return read_live(path)

        monkeypatch.setattr("testbed.commands.watch.read_live", look)
        with monkeypatch.context() as terminal:
            terminal.setattr("sys.stdout.isatty", lambda: True)
            assert cli.main(["watch", str(bundle.path)]) == LabFault.exit_code
    assert (bundle.path / LIVE).exists(), "nobody was there to remove it"
    for words in ([], ["--once"], ["--json"]):
        capsys.readouterr()
        assert cli.main(["watch", str(bundle.path), *words]) == LabFault.exit_code
        said = "".join(capsys.readouterr())
        assert "was cut off" in said
        assert f"testbed resume {bundle.path}" in said
    assert cli.main(["abort", "--run", str(bundle.path)]) == LabFault.exit_code
    with bundle.locked():
        assert read_live(bundle.path) is None, "it is of the process that was killed"


def test_another_user_may_see_whether_a_campaign_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign in an emulated lab runs as root. Where its lock cannot be read, nobody is told
    that it was cut off, and to resume it."""
    bundle = Story(tmp_path).bundle
    bundle.update(0, state="running")
    before = os.umask(0o022)
    try:
        with bundle.locked():
            assert (bundle.path / LOCK).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
    real = os.open

    def refused(path: Path, flags: int, *more: Any, **named: Any) -> int:
        if Path(path).name == LOCK:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *more, **named)

    monkeypatch.setattr("testbed.bundle_lock.os.open", refused)
    for words in (["watch", str(bundle.path)], ["abort", "--run", str(bundle.path)]):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert "as the user who runs the campaign" in said
        assert "resume" not in said


def test_the_live_view_gives_the_terminal_back_with_nothing_but_what_was_printed() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24, color_system=None)
    with LiveScreen(console) as screen:
        screen.say("choosing ports and making keys")
        screen.show(live)
        screen.hide()
        screen.say("checking ledgers and logs")
        eventually(lambda: "checking ledgers" in out.getvalue())
        screen.note("run 3 failed: r3 is not ready")
    enters, _, rest = out.getvalue().partition("\x1b[?1049h")
    shown, _, left = rest.partition("\x1b[?1049l")
    assert "quick-start" not in enters
    assert "r1 DOWN (kill-primary)" in shown
    assert "quick-start" not in left
    assert "checking" not in left
    assert "run 3 failed: r3 is not ready" in left
