"""The main job as its user meets it: real processes, real broker, real interpreter, real faults.

Every run here is `testbed run` in a process of its own, on the loopback lab, with a campaign that
has everything the quick start has and half its length.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from testbed import cli
from tests.testbed.bundles import traced_to_the_end

CAMPAIGN = """
schema: testbed.campaign/1
campaign: short
seed: 7
workload: {kind: enrol+data, rate: 5/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, fault: 6s, recovery: 2s}
faults:
  - {id: kill-primary, at: 500ms, for: 2s, do: process.crash, on: primary}
  - {id: replay, at: 4s, do: device.replay, messages: [admission, data, serial]}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
  liveness: {first_commit_after_heal: 10s}
  attack: {replay: {succeeded_upper95: 0.5}}
"""
STARTED_S_MAX = 60.0
ENDED_S_MAX = 110.0
GONE_S_MAX = 30.0
LOOK_EVERY_S = 0.05


class Run:
    """One `testbed run`; `phases` is what it has said so far."""

    def __init__(self, tmp_path: Path, name: str, campaign_text: str) -> None:
        self.out = tmp_path / name
        campaign = tmp_path / "short.yaml"
        campaign.write_text(campaign_text)
        self.said = tmp_path / f"{name}.log"
        with self.said.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "testbed.cli", "run", str(campaign), "--out", str(self.out)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._script = psutil.Process(self.process.pid)

    def until(self, what: Callable[[], bool], within_s: float) -> None:
        """Wait for a condition; fails with what the run said."""
        deadline_s = time.monotonic() + within_s
        while not what():
            assert time.monotonic() < deadline_s, f"not in time:\n{self.said.read_text()}"
            assert self.process.poll() is None, f"ended early:\n{self.said.read_text()}"
            time.sleep(LOOK_EVERY_S)

    def reach(self, phase: str) -> None:
        self.until(lambda: f"phase {phase}:" in self.said.read_text(), STARTED_S_MAX)

    def processes(self) -> list[psutil.Process]:
        return self._script.children(recursive=True) if self._script.is_running() else []

    def kill(self, words: str) -> None:
        """SIGKILL to the one process of this run whose command line holds `words`."""
        (victim,) = [process for process in self.processes() if is_python(process, words)]
        victim.kill()

    def end(self) -> int:
        try:
            return self.process.wait(ENDED_S_MAX)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end:\n{self.said.read_text()}")

    @property
    def bundle(self) -> Path:
        (bundle,) = self.out.iterdir()
        return bundle

    @property
    def steps(self) -> list[str]:
        """What became of its one fault so far."""
        path = self.bundle / "run/0000-faults/raw/faults.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["step"] for line in lines]

    @property
    def summary(self) -> dict[str, object]:
        summary: dict[str, object] = json.loads((self.bundle / "summary.json").read_bytes())
        return summary


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(name: str, campaign: str = CAMPAIGN) -> Run:
        runs.append(Run(tmp_path, name, campaign))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


def is_python(process: psutil.Process, words: str) -> bool:
    """Whether it is the program itself, not the guard that started it. It may end meanwhile."""
    try:
        said = " ".join(process.cmdline())
        return words in said and process.name().startswith("python") and "guard" not in said
    except psutil.NoSuchProcess:
        return False


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that has ended and waits for its parent to notice does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            process
            for process in processes
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]
    return alive([process for process in processes if process.is_running()])


def nothing_is_left_of(processes: list[psutil.Process]) -> None:
    """What was killed takes a moment to end where the machine has other work."""
    deadline_s = time.monotonic() + GONE_S_MAX
    while left := alive(processes):
        assert time.monotonic() < deadline_s, left
        time.sleep(LOOK_EVERY_S)


def verify(bundle: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testbed.cli", "ledger", "verify", str(bundle)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.soak
def test_two_runs_at_once_pass_and_leave_nothing(start: Callable[..., Run]) -> None:
    """The whole thread: admission, data, a killed primary, a replay, verdicts. In the fast tier
    `test_baseline` has two runs at once."""
    runs = [start(name) for name in ("one", "two")]
    runs[0].reach("fault")
    of_the_run = runs[0].processes()
    for run in runs:
        assert run.end() == 0, run.said.read_text()
        assert run.summary["verdict"] == "passed"
        assert run.summary["ledger_verified"] is True
        assert run.summary["devices_admitted"] == 5
        assert not (run.bundle / "live.json").exists()
        traced_to_the_end(run.bundle / "run/0000-faults/derived")
    nothing_is_left_of(of_the_run)
    checked = verify(runs[0].bundle)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.soak
def test_anything_may_be_killed_by_hand(start: Callable[..., Run]) -> None:
    """A replica, the broker and the gateway die at once in mid-run: what was acknowledged stays,
    the run passes."""
    run = start("killed")
    run.reach("recovery")
    run.kill("nodes.replica.process --config r3/")
    run.kill("nodes.gateway.broker --config")
    run.kill("nodes.gateway.process --config")
    assert run.end() == 0, run.said.read_text()
    assert run.summary["ledger_verified"] is True


LONG_FAULTS = """
schema: testbed.campaign/1
campaign: long
seed: 7
workload: {kind: enrol+data, rate: 2/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 5s, fault: 5m}
faults:
  - {id: kill-r3, at: 500ms, for: 4m, do: process.crash, on: replica(2)}
  - {id: stop-phone, at: 500ms, for: 4m, do: process.stop, on: mobile}
"""


def test_faults_end_within_seconds_when_one_is_aborted_and_when_ctrl_c_ends_the_run(
    start: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Four minutes they would last. Whoever aborts one, or the run in the middle of the other, does
    not wait for that; nothing is left, and what was collected is kept."""
    run = start("aborted", LONG_FAULTS)
    run.reach("warmup")
    where = ("--run", str(run.bundle))
    assert cli.main(["abort", *where]) == 0
    assert "no fault is active" in capsys.readouterr().out
    run.until(lambda: run.steps.count("applied") == 2, STARTED_S_MAX)
    assert cli.main(["abort", *where, "--json"]) == 0
    active = {each["fault"]: each for each in json.loads(capsys.readouterr().out)["faults"]}
    assert {name: each["kind"] for name, each in active.items()} == {
        "kill-r3": "process.crash",
        "stop-phone": "process.stop",
    }
    assert cli.main(["abort", "kill-r9", *where]) == 2
    assert active["kill-r3"]["event"] in capsys.readouterr().err
    assert cli.main(["abort", "kill-r3", "--check", *where]) == 0
    assert "would be aborted" in capsys.readouterr().out
    assert not (run.bundle / "run/0000-faults/abort").exists()
    assert cli.main(["abort", "kill-r3", *where]) == 0
    run.until(lambda: "verified" in run.steps, ENDED_S_MAX)
    capsys.readouterr()
    assert cli.main(["abort", *where, "--json"]) == 0
    (still,) = json.loads(capsys.readouterr().out)["faults"]
    assert still["fault"] == "stop-phone"
    ended = [step for step in run.steps if step != "observed"]
    assert ended[-3:] == ["aborted", "healed", "verified"]

    of_the_run = run.processes()
    assert of_the_run
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    nothing_is_left_of(of_the_run)
    assert (run.bundle / "manifest.json").exists()
    assert verify(run.bundle).returncode == 0
    assert cli.main(["abort", *where]) == 2
    assert "no run is under way" in capsys.readouterr().err
