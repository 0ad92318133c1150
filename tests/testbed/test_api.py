"""The testbed from Python and pytest, as the README shows it: its own text is run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.api import CampaignResult, RunningTestbed, running_testbed
from testbed.errors import ConfigurationError
from tests.testbed.bundles import Story

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    """The README's programs, in order: pytest, then Python."""
    section = README.read_text().partition("## From Python and pytest")[2]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:2]


def pytest_run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_mine.py").write_text(blocks()[0])
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "."]
    return subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.soak
def test_under_xdist_each_worker_has_a_lab_of_its_own(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, "-n", "2", "--testbed-period", "200ms")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_one_lab_is_not_shared_by_workers(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, "-n", "1", "--testbed-inventory", "lab.yaml")
    assert done.returncode == 1
    assert "run pytest with -n 0" in done.stdout


@pytest.mark.soak
def test_the_readmes_script_runs(tmp_path: Path) -> None:
    script = [sys.executable, "-c", blocks()[1]]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def bench() -> Iterator[RunningTestbed]:
    with running_testbed(period="1s") as bench:
        yield bench


def test_a_lab_is_looked_at_struck_and_collected(bench: RunningTestbed, tmp_path: Path) -> None:
    bench.wait_for(lambda: bench.height >= 3)
    assert bench.primary in bench.processes
    with bench.inject("byzantine.withhold", on="backup(1)") as seen:
        assert "lies" in seen.what
    bench.kill("phones-1")
    starts = len(started(bench))
    bench.wait_for(lambda: len(started(bench)) > starts)
    result = bench.collect(tmp_path)
    assert result.summary.devices_admitted == len(bench.devices)
    assert result.table("results").exists()
    assert result.table("blocks", run=0).exists()


def test_the_readmes_tests_pass(bench: RunningTestbed) -> None:
    names: dict[str, Any] = {}
    exec(blocks()[0], names)
    tests = [test for name, test in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(bench)


def started(bench: RunningTestbed) -> list[object]:
    return [event for event in bench.events("phones-1") if event["event"] == "started"]


@pytest.mark.parametrize(
    ("kind", "parameters", "named"),
    [
        ("process.crush", {"on": "primary"}, "no fault"),
        ("device.replay", {}, "no fault"),
        ("process.crash", {"on": "replica(9)"}, "replica"),
        ("process.crash", {"on": "primary", "colour": 1}, "colour"),
    ],
)
def test_what_cannot_be_injected_is_said(
    bench: RunningTestbed, kind: str, parameters: dict[str, object], named: str
) -> None:
    with pytest.raises(Exception, match=named), bench.inject(kind, **parameters):
        pass


def test_what_is_not_there_is_answered_with_what_is(bench: RunningTestbed) -> None:
    with pytest.raises(ConfigurationError, match="phones-1"):
        bench.events("phones-11")
    with pytest.raises(TimeoutError, match="within 100ms"):
        bench.wait_for(lambda: False, within="100ms")


def test_a_bundle_is_read_and_names_its_tables(tmp_path: Path) -> None:
    result = CampaignResult.read(Story(tmp_path).bundle.path)
    assert result.verdict == "passed"
    with pytest.raises(ConfigurationError, match="results"):
        result.table("result")
