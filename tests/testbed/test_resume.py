"""A campaign survives whatever ends its program: what is complete stays, the rest is made once.

The test at the end has real processes; what may differ between then and now, from files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chain.genesis import Genesis
from inventory.load import load_lab, packaged
from testbed import cli
from testbed.bundle import LIVE, Bundle, RunFolder, find_run
from testbed.bundle_lock import LOCK, is_locked, locked
from testbed.campaign.book import Inputs, begin, new_bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign
from testbed.campaign.resume import redo, resumable
from testbed.errors import ConfigurationError, LabFault, LockedError
from tests.testbed.labs import local_lab

CAMPAIGN = """\
schema: testbed.campaign/1
campaign: pairs
seed: 7
trials: {count: 2, order: ABBA}
workload: {kind: enrol+data, rate: 8/s, arrivals: uniform, timeout: 3s}
phases: {warmup: 2500ms, fault: 3500ms}
faults:
  - {id: kill-backup, at: 200ms, for: 1500ms, do: process.crash, on: backup(1)}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
"""
PHASE_S_MAX = 90.0
ENDED_S_MAX = 150.0
LOOK_EVERY_S = 0.05


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.yaml"
    path.write_text(CAMPAIGN)
    return path


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_bytes(packaged("loopback").read_bytes())
    return path


@pytest.fixture
def bundle(campaign: Path, inventory: Path, tmp_path: Path) -> Bundle:
    """Everything planned, nothing begun."""
    lab = load_lab(inventory)
    schedule = expand(load_campaign(campaign), lab)
    files = {"campaign_file": str(campaign), "inventory_file": str(inventory)}
    inputs = Inputs(lab, schedule, campaign.read_bytes(), **files)
    return new_bundle(inputs, tmp_path / "out")


def states(bundle: Bundle) -> list[str]:
    return [entry.state for entry in bundle.manifest.runs]


def complete(bundle: Bundle) -> list[bool]:
    return [entry.complete for entry in bundle.manifest.runs]


# --- from files alone -----------------------------------------------------------------------------


def test_every_run_is_planned_before_the_first_begins(bundle: Bundle) -> None:
    entries = bundle.manifest.runs
    assert [(e.trial, e.arm, e.path) for e in entries] == [
        (0, "baseline", "run/0000-baseline"),
        (0, "faults", "run/0001-faults"),
        (1, "faults", "run/0002-faults"),
        (1, "baseline", "run/0003-baseline"),
    ]
    found = resumable(bundle, None)
    assert found.schedule.schedule_hash == bundle.manifest.schedule_sha256
    assert redo(bundle) == list(entries)


def test_a_run_alone_has_the_schedule_that_it_has_among_the_others(bundle: Bundle) -> None:
    """Equal arrivals in both arms of a trial; the baseline's events are known and left out."""
    schedule = resumable(bundle, None).schedule
    parts = [schedule.part(index) for index in range(4)]
    assert [len(part.only.events) for part in parts] == [0, 1, 1, 0]
    assert parts[0].only.devices == parts[1].only.devices
    assert parts[1].only.devices != parts[2].only.devices
    assert {phase.name for part in parts for phase in part.struck} == {"fault"}
    assert len({part.schedule_hash for part in parts}) == 4


def change_file(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edited_campaign(bundle: Bundle, campaign: Path, inventory: Path) -> None:
    change_file(campaign, "rate: 8/s", "rate: 9/s")


def edited_inventory(bundle: Bundle, campaign: Path, inventory: Path) -> None:
    change_file(inventory, "mobiles: 3", "mobiles: 2")


def edited_copy(bundle: Bundle, campaign: Path, inventory: Path) -> None:
    change_file(bundle.path / "inputs/campaign.yaml", "exactly-once, ", "")


def edited_schedule(bundle: Bundle, campaign: Path, inventory: Path) -> None:
    change_file(bundle.path / "inputs/schedule.json", '"at_ms":2700', '"at_ms":2701')


def other_code(bundle: Bundle, campaign: Path, inventory: Path) -> None:
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, code_sha256="0" * 64))


def other_package(bundle: Bundle, campaign: Path, inventory: Path) -> None:
    packages = {**bundle.manifest.packages, "cryptography": "1.0"}
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, packages=packages))


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        (edited_campaign, "campaign: .*pairs.yaml gives schedule"),
        (edited_inventory, "inventory: hosts, roles"),
        (edited_copy, "inputs/campaign.yaml was changed"),
        (edited_schedule, "inputs/schedule.json was changed"),
        (other_code, "code: then .*, now "),
        (other_package, "package cryptography: then 1.0, now "),
    ],
)
def test_a_campaign_goes_on_only_as_it_began(
    bundle: Bundle, campaign: Path, inventory: Path, differs: Any, said: str
) -> None:
    """Whatever differs is named, with the command that begins a new bundle; nothing is touched."""
    typed = ("testbed", "run", "pairs.yaml", "--out", "my results")
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, argv=typed))
    differs(bundle, campaign, inventory)
    stated = None
    if differs is edited_inventory:  # it may hold other commands now: the user must name it
        with pytest.raises(ConfigurationError, match="changed since"):
            resumable(bundle, None)
        stated = inventory
    with pytest.raises(ConfigurationError, match=said) as refused:
        resumable(bundle, stated)
    _, _, command = str(refused.value).rpartition("begin a new bundle: ")
    assert tuple(shlex.split(command)) == typed
    assert set(states(bundle)) == {"planned"}


def test_files_may_be_gone_or_elsewhere(bundle: Bundle, campaign: Path, inventory: Path) -> None:
    """The bundle has the schedule; of the inventory it lacks the logins."""
    campaign.unlink()
    moved = inventory.rename(inventory.with_name("moved.yaml"))
    with pytest.raises(ConfigurationError, match="name it with -i"):
        resumable(bundle, None)
    resumable(bundle, moved)


def test_what_an_incomplete_run_left_is_kept_apart_with_the_reason(bundle: Bundle) -> None:
    for index, state in enumerate(("done", "running", "failed")):
        entry = bundle.manifest.runs[index]
        run = begin(bundle, entry)
        run.write("raw/run.jsonl", f"{index}\n")
        bundle.update(index, state=state, reason="r3 is not ready" if state == "failed" else None)
    todo = redo(bundle)
    assert [entry.index for entry in todo] == [1, 2, 3]
    assert states(bundle) == ["done", "planned", "planned", "planned"]
    attempts = [attempt for entry in todo for attempt in entry.attempts]
    assert [(a.path, a.reason) for a in attempts] == [
        ("attempts/0001-faults-1", "cut off: the program that ran it ended"),
        ("attempts/0002-faults-1", "r3 is not ready"),
    ]
    assert (bundle.path / attempts[0].path / "raw/run.jsonl").read_text() == "1\n"
    assert not (bundle.path / "run/0001-faults").exists()
    begin(bundle, bundle.manifest.runs[1]).write("raw/run.jsonl", "again\n")
    (again, *_) = redo(bundle)
    assert [attempt.path[-1] for attempt in again.attempts] == ["1", "2"]
    assert (bundle.path / "run/0000-baseline/raw/run.jsonl").read_text() == "0\n"


def test_a_try_that_was_killed_before_it_wrote_anything_is_counted(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step of the beginning was the last: said to run, then it has left something."""

    class Killed(BaseException):
        """Nothing may run after it, as after SIGKILL."""

    steps = 0

    def dying(step: Callable[..., Any], last: int) -> Callable[..., Any]:
        def step_(*args: Any, **words: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > last:
                raise Killed
            return step(*args, **words)

        return step_

    ends = []
    for last in itertools.count():
        steps = 0
        before = bundle.manifest.runs[0]
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Path, "mkdir", dying(Path.mkdir, last))
            patch.setattr(Path, "replace", dying(Path.replace, last))
            begin(bundle, before)
        ends.append(bundle.manifest.runs[0].state)
        entry = redo(bundle)[0]
        if ends[-1] == "running":
            assert len(entry.attempts) == len(before.attempts) + 1
        if steps <= last:
            break
    assert ends.count("running") > 0 < ends.count("planned")


def test_one_run_of_several_goes_on_alone(campaign: Path, inventory: Path, tmp_path: Path) -> None:
    """`testbed run --only 1`: a bundle whose one run keeps its number."""
    lab = load_lab(inventory)
    schedule = expand(load_campaign(campaign), lab).part(1)
    inputs = Inputs(lab, schedule, campaign.read_bytes(), str(campaign), str(inventory))
    bundle = new_bundle(inputs, tmp_path / "one")
    assert resumable(bundle, None).schedule == schedule == schedule.part(1)
    (entry,) = bundle.manifest.runs
    begin(bundle, entry).write("raw/run.jsonl", "first\n")
    (entry,) = redo(bundle)
    kept = bundle.path / entry.attempts[0].path
    assert (kept / "raw/run.jsonl").read_text() == "first\n"


def test_killed_while_it_sets_a_try_aside_the_next_call_ends_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever move was the last: all that the try left is kept in one place, and counted once."""

    class Killed(BaseException):
        """Nothing may run after it, as after SIGKILL."""

    index = bundle.manifest.runs[0].index
    left = {"raw/run.jsonl", "env/here.json", "genesis.json", "summary.json"}
    for last in itertools.count():
        entry = bundle.manifest.runs[0]
        run = begin(bundle, entry)
        for name in left:
            run.write(name, f"{last}")
        moves = 0

        def dying(move: Callable[..., Any], last: int = last) -> Callable[..., Any]:
            def move_(*args: Any) -> Any:
                nonlocal moves
                moves += 1
                if moves > last:
                    raise Killed
                return move(*args)

            return move_

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Path, "rename", dying(Path.rename))
            patch.setattr(Path, "replace", dying(Path.replace))
            redo(bundle)
        (again, *_) = redo(bundle)
        assert again.index == index
        assert len(again.attempts) == len(entry.attempts) + 1
        kept = bundle.path / again.attempts[-1].path
        assert {(kept / name).read_text() for name in left} == {f"{last}"}
        assert not any((run.path / name).exists() for name in left)
        if moves <= last:
            break
    assert last > 0


def test_one_run_of_a_campaign_that_has_fewer_by_now_is_refused_with_the_reason(
    campaign: Path, inventory: Path, tmp_path: Path
) -> None:
    schedule = expand(load_campaign(campaign), load_lab(inventory)).part(3)
    files = (str(campaign), str(inventory))
    inputs = Inputs(load_lab(inventory), schedule, campaign.read_bytes(), *files)
    bundle = new_bundle(inputs, tmp_path / "one")
    change_file(campaign, "count: 2", "count: 1")
    with pytest.raises(ConfigurationError, match="gives schedule"):
        resumable(bundle, None)


def test_two_cannot_write_one_bundle(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with bundle.locked():
        assert cli.main(["resume", str(bundle.path)]) == LockedError.exit_code
        assert f"process {os.getpid()}" in capsys.readouterr().err
        (bundle.path / LOCK).unlink()
        assert cli.main(["resume", str(bundle.path)]) == LockedError.exit_code
    with bundle.locked():
        pass


@pytest.mark.parametrize("asked", ["the directory", "the file"])
def test_who_only_asks_for_the_lock_keeps_no_writer_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """`watch` asks four times a second."""
    (tmp_path / LOCK).touch()
    asks = os.open(tmp_path if asked == "the directory" else tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(asks, fcntl.LOCK_SH)
    real, refused = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        """The other one has asked once the writer was in his way."""
        try:
            real(descriptor, operation)
        except BlockingIOError:
            refused.append(descriptor)
            real(asks, fcntl.LOCK_UN)
            raise

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert len(refused) == 1
        assert is_locked(tmp_path)
    os.close(asks)


def test_a_disk_without_locks_says_so_and_not_that_somebody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network's disk whose server has no lock service."""

    def flock(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    says = rf"{tmp_path} cannot be locked: No locks available; .* a disk that has locks"
    with pytest.raises(ConfigurationError, match=says):
        is_locked(tmp_path)
    with pytest.raises(ConfigurationError, match=says), locked(tmp_path):
        pass


def test_resume_with_check_changes_nothing(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle.path / LIVE).write_text("{}")  # of a process that was killed

    def files() -> dict[Path, int]:
        return {each: each.stat().st_mtime_ns for each in bundle.path.rglob("*")}

    before = files()
    assert cli.main(["resume", str(bundle.path), "--check"]) == 0
    assert "would make runs 0, 1, 2, 3" in capsys.readouterr().err
    assert files() == before
    with bundle.locked():
        assert cli.main(["resume", str(bundle.path), "--check"]) == LockedError.exit_code
        assert f"process {os.getpid()}" in capsys.readouterr().err


def test_resume_with_check_says_what_is_not_judged_yet(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program was killed after the last run, or while it judged."""

    def looked() -> tuple[str, list[str]]:
        path = str(run.bundle.path)
        assert cli.main(["resume", path, "--check"]) == 0
        said = capsys.readouterr().out.strip().removeprefix(f"{path} is complete: ")
        assert cli.main(["resume", path, "--check", "--json"]) == 0
        return said, json.loads(capsys.readouterr().out)["would"]

    assert looked() == ("would judge runs 0", ["judge runs 0"])
    assert not run.is_derived
    assert cli.main(["resume", str(run.bundle.path)]) == 0
    capsys.readouterr()
    assert looked() == ("nothing to do", [])
    (run.bundle.path / "report.html").unlink()
    assert looked() == ("would judge the campaign", ["judge the campaign"])


def test_who_needs_one_run_is_told_to_name_one(bundle: Bundle) -> None:
    bundle.update(0, state="done")
    with pytest.raises(ConfigurationError, match=r"has 4 runs; name one of them: .*0000-baseline"):
        find_run(str(bundle.path))


# --- the story ------------------------------------------------------------------------------------


class Command:
    """`testbed ...` in a process of its own."""

    def __init__(self, log: Path, *words: str) -> None:
        self._log = log
        self._seen = 0
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "testbed.cli", *words],
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, words: str) -> None:
        """Wait until it has said that, after what it was waited for before."""
        deadline_s = time.monotonic() + PHASE_S_MAX
        while (at := self.said.find(words, self._seen)) < 0:
            assert time.monotonic() < deadline_s, self.said
            assert self.process.poll() is None, self.said
            time.sleep(LOOK_EVERY_S)
        self._seen = at + len(words)

    def end(self, number: signal.Signals | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(ENDED_S_MAX)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Any]:
    commands: list[Command] = []

    def begin_(*words: str) -> Command:
        commands.append(Command(tmp_path / f"{len(commands)}.log", *words))
        return commands[-1]

    yield begin_
    for command in commands:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()


def raw_files(run: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (run / "raw").rglob("*")
        if path.is_file()
    }


def test_interrupted_in_run_2_killed_in_run_2_complete_at_the_end(
    campaign: Path, tmp_path: Path, begun: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both runs of a trial, three sittings: no run is lost, made twice or mixed. (Whether so short
    a run counts depends on how busy the machine is.)"""
    out, small = tmp_path / "results", tmp_path / "small.yaml"
    small.write_text(local_lab(mobiles=1, boards=0))
    change_file(campaign, "{count: 2, order: ABBA}", "{count: 1, order: AB}")
    first = begun("run", str(campaign), "-i", str(small), "--out", str(out))
    first.until("run 2 of 2 (faults, trial 0)")
    assert first.end(signal.SIGINT) == 130
    (path,) = out.iterdir()
    bundle = Bundle(path)
    assert complete(bundle) == [True, False]
    assert states(bundle)[1] == "failed"
    assert f"testbed resume {path}" in first.said
    kept = raw_files(path / "run/0000-baseline")

    second = begun("resume", str(path))
    second.until("starting 4 x replica")
    assert cli.main(["resume", str(path)]) == LockedError.exit_code, "two at once"
    assert second.end(signal.SIGKILL) == -signal.SIGKILL
    assert complete(bundle) == [True, False]
    assert states(bundle)[1] == "running"
    capsys.readouterr()
    assert cli.main(["watch", str(path)]) == LabFault.exit_code
    assert f"testbed resume {path}" in capsys.readouterr().err

    third = begun("resume", str(path), "--json")
    third.end()
    assert complete(bundle) == [True] * 2, third.said
    runs = bundle.manifest.runs
    assert [len(entry.attempts) for entry in runs] == [0, 2]
    interrupted, killed = runs[1].attempts
    assert interrupted.reason == "interrupted"
    assert killed.reason.startswith("cut off")
    assert raw_files(path / "run/0000-baseline") == kept, "what was complete is as it was"

    networks = {
        Genesis.decode((run.path / "genesis.json").read_bytes()).network for run in bundle.runs
    }
    assert len(networks) == 2, "each run has a chain of its own"
    summary = json.loads((path / "summary.json").read_bytes())
    assert summary["counts"]["counted"] == states(bundle).count("done")
    faulty = [run for run in bundle.runs if run.entry.arm == "faults"]
    assert all((run.raw / "faults.jsonl").exists() for run in faulty)
    for run in bundle.runs:
        begins, entry = next(run.lines("raw/run.jsonl")), run.entry
        logged = (begins["run"], begins["trial"], begins["arm"])
        assert logged == (entry.index, entry.trial, entry.arm)
    before = bundle.manifest
    cli.main(["resume", str(path)])
    assert bundle.manifest == before, "complete: nothing to do"


def test_a_lock_that_cannot_be_is_no_question_of_the_user(tmp_path: Path) -> None:
    """As on a read-only disk."""
    (tmp_path / LOCK).mkdir()
    with pytest.raises(ConfigurationError, match=r"\.lock: Is a directory$"), locked(tmp_path):
        pass
