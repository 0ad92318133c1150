"""The testbed from Python and pytest, as the README shows it: its own text is run. And what its
processes report to Prometheus: one lab for both.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import testbed
from inventory.load import load_lab
from testbed.api import CampaignResult, RunningTestbed, running_testbed
from testbed.errors import ConfigurationError
from testbed.provision.targets import metrics_targets
from tests.testbed.bundles import Story
from tests.testbed.hosts_support import free_ports
from tests.testbed.labs import local_lab
from tests.testbed.test_replace import heights_of

README = Path(__file__).parents[2] / "README.md"
DASHBOARD = Path(testbed.__file__).parent / "monitoring" / "dashboard.json"


# With a checkpoint every few blocks: a change of members waits for the next one.
LAB = local_lab(spare="spare1", chain={"checkpoint_interval": 8, "window": 8})


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


def test_one_lab_is_not_shared_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    done = pytest_run(tmp_path, "-p", "no:xdist", "--testbed-inventory", "lab.yaml")
    assert done.returncode == 1
    assert "run pytest with -n 0" in done.stdout


def test_a_lab_that_does_not_come_up_fails_tests_with_the_reason_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    done = pytest_run(tmp_path, "-p", "no:xdist", "--testbed-inventory", "nowhere.yaml")
    assert done.returncode == 1
    assert "nowhere.yaml:1:1: cannot read: No such file" in done.stdout
    assert "Traceback" not in done.stdout
    assert "load.py" not in done.stdout, "where it was raised does not help"


def test_a_strange_period_is_refused_as_an_option(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, "-p", "no:xdist", "--testbed-period", "abc")
    assert done.returncode == 4
    assert "argument --testbed-period: " in done.stderr


@pytest.mark.soak
def test_the_readmes_script_runs(tmp_path: Path) -> None:
    script = [sys.executable, "-c", blocks()[1]]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "lab.yaml"
    path.write_text(f"{LAB}metrics: {{port: {free_ports()}}}\n")
    return path


@pytest.fixture(scope="module")
def bench(inventory: Path) -> Iterator[RunningTestbed]:
    with running_testbed(inventory, period="500ms") as bench:
        yield bench


def test_the_readmes_tests_pass(bench: RunningTestbed) -> None:
    names: dict[str, Any] = {}
    exec(blocks()[0], names)
    tests = [test for name, test in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(bench)


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


# --- metrics --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metrics(bench: RunningTestbed, inventory: Path) -> dict[str, str]:
    """What each process says, by its role and port."""
    bench.wait_for(lambda: bench.height >= 3)
    return {
        f"{each.labels['role']} {each.address}": fetched(bench, each.address)
        for each in metrics_targets(load_lab(inventory))
        if each.labels["role"] != "spare"  # stands by, not started
    }


def fetched(bench: Any, target: str) -> str:
    found: list[str] = []

    def answers() -> bool:
        try:
            with urlopen(f"http://{target}/metrics", timeout=5) as answer:
                found.append(answer.read().decode())
        except URLError:
            return False
        return True

    bench.wait_for(answers)
    return found[-1]


def value(text: str, name: str) -> float:
    (found,) = re.findall(rf"^testbed_{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
    return float(found)


def test_every_process_reports_its_metrics(metrics: dict[str, str]) -> None:
    roles = [name.split()[0] for name in metrics]
    assert sorted(set(roles)) == ["broker", "environment", "gateway", "mobile", "replica"]
    assert roles.count("replica") == 4
    for name, text in metrics.items():
        assert value(text, "cpu_seconds_total") > 0, name
        assert value(text, "resident_bytes") > 1e6, name
    for text in (text for name, text in metrics.items() if name.startswith("replica")):
        assert value(text, "height") >= 2
        assert value(text, "links") >= 3
        assert value(text, "syncs_total") > 0
    (gateway,) = (text for name, text in metrics.items() if name.startswith("gateway"))
    assert value(gateway, "height") >= 2
    assert "testbed_requests_total{" in gateway
    (broker,) = (text for name, text in metrics.items() if name.startswith("broker"))
    assert re.search(
        r'^testbed_broker_events_total{event="logins",process="\S+"} [1-9]', broker, re.M
    )


def test_replicas_name_their_peers_as_the_inventory_does(metrics: dict[str, str]) -> None:
    texts = [text for name, text in metrics.items() if name.startswith("replica")]
    for text in texts:
        heard = set(re.findall(r'^testbed_frames_heard_total{peer="(\S+?)",', text, re.MULTILINE))
        assert len(heard & {"r1", "r2", "r3", "r4"}) == 3
        assert heard < {"r1", "r2", "r3", "r4", "spare1"}


def test_the_dashboard_shows_only_metrics_that_exist(metrics: dict[str, str]) -> None:
    types = r"^# TYPE (testbed_\w+)"  # there also before the first one is counted
    known = set(re.findall(types, "\n".join(metrics.values()), re.MULTILINE))
    expressions = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]
    shown = set(re.findall(r"testbed_\w+", " ".join(expressions)))
    assert len(shown) > 5
    assert shown <= known


def test_promtool_finds_nothing_wrong(metrics: dict[str, str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    for role, text in {name.split()[0]: text for name, text in metrics.items()}.items():
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), role
    config = DASHBOARD.with_name("prometheus.yml")
    subprocess.run([promtool, "check", "config", "--syntax-only", str(config)], check=True)


# --- last, as the lab is another one afterwards ---------------------------------------------------


def test_a_lab_is_looked_at_struck_and_collected(bench: RunningTestbed, tmp_path: Path) -> None:
    """At the end its primary is lost, and a spare takes its place."""
    bench.wait_for(lambda: bench.height >= 3)
    assert bench.primary in bench.processes
    with bench.inject("byzantine.withhold", on="backup(1)") as seen:
        assert "lies" in seen.what
    bench.kill("phones-2")
    starts = len(started(bench))
    bench.wait_for(lambda: len(started(bench)) > starts)
    lost = bench.primary
    with bench.inject("replica.replace", on="primary") as seen:
        assert seen.what.startswith("spare1 decides after ")
        assert f"{lost} is out after " in seen.what
        assert seen.read_back["epoch"] == 2, "two changes: one in, one out"
    result = bench.collect(tmp_path)
    assert result.verdict == "passed"
    assert result.summary.devices_admitted == len(bench.devices)
    assert result.table("results").exists()
    assert result.table("blocks", run=0).exists()
    summary = json.loads((result.path / "summary.json").read_bytes())
    heights = heights_of(summary["runs"][0]["summary"])
    assert heights.keys() == {"r1", "r2", "r3", "r4", "spare1"}
    rest = [height for name, height in heights.items() if name != lost]  # the lab runs meanwhile
    assert min(rest) > heights[lost], "the lost one had no part in the rest"


def started(bench: RunningTestbed) -> list[object]:
    return [event for event in bench.events("phones-2") if event["event"] == "started"]
