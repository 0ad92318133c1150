"""`testbed bench peers`, `against` and `views`: what is refused, what is read, what is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import cli
from testbed.bench import against
from testbed.bench.peers import Figures, figures, hosts, settings
from testbed.bench.view_changes import measure_view_changes
from testbed.errors import ConfigurationError, LabFault

HOSTS = "# id address ports\n" + "".join(f"{n} 127.0.0.1 11{n}00 11{n}01\n" for n in range(4))
SERVER = """\
--- Measurements after 400 ops (400 samples) ---
Throughput = 100.5 operations/sec (Maximum observed: 100.5 ops/sec)
Total latency = 5120 (+/- 81) us
--- Measurements after 800 ops (400 samples) ---
Throughput = 1363.25 operations/sec (Maximum observed: 1363.25 ops/sec)
--- Measurements after 1200 ops (400 samples) ---
Throughput = 1.5391E3 operations/sec (Maximum observed: 1539.1 ops/sec)
"""
CLIENT = """\
Launching client 1001
1001 // Average time for 500 executions (-10%) = 2501 us
1001 // Average time for 500 executions (all samples) = 2560 us
All clients done.
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like one, and a java that is never started."""
    (tmp_path / "config").mkdir()
    (tmp_path / "smartrun.sh").write_text("exit 1\n")
    (tmp_path / "config" / "hosts.config").write_text(HOSTS)
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent) + os.pathsep + os.environ["PATH"])
    return tmp_path


def test_figures_are_read_from_what_the_micro_benchmark_prints() -> None:
    """The first half of the measurements warms up."""
    assert figures(SERVER, CLIENT) == Figures(requests_per_s=1451.2, latency_ms=2.56)


@pytest.mark.parametrize(("server", "client"), [("", CLIENT), (SERVER, "Warm up...\n")])
def test_output_without_figures_is_a_fault(server: str, client: str) -> None:
    with pytest.raises(LabFault, match="printed no"):
        figures(server, client)


def test_the_replicas_are_those_of_its_config(build: Path) -> None:
    assert hosts(build) == [(n, 11_000 + 100 * n) for n in range(4)]


def test_what_its_config_says_of_signatures_is_read(build: Path) -> None:
    (build / "config" / "system.config").write_text(
        "#system.communication.signatureAlgorithm = SHA512withRSA\n"
        "system.communication.signatureAlgorithm = SHA256withECDSA\n"
        "system.communication.useSignatures = true\n"
    )
    assert settings(build) == {
        "useSignatures": "true",
        "signatureAlgorithm": "SHA256withECDSA",
        "defaultkeys": "?",
        "useMACs": "?",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4 192.0.2.7 11400 11401", "192.0.2.7 is not of this machine"),
        ("4 example.org 11400 11401", "wanted an id"),
        ("four", "hosts.config:6"),
    ],
)
def test_a_config_that_reaches_out_or_makes_no_sense_is_refused(
    build: Path, line: str, message: str
) -> None:
    with (build / "config" / "hosts.config").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigurationError, match=message):
        hosts(build)


def test_a_folder_without_a_build_is_refused_and_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "peers", "--bft-smart", str(tmp_path)]) == 2
    assert "no smartrun.sh" in capsys.readouterr().err


def test_too_few_replicas_and_a_missing_java_are_refused(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (build / "config" / "hosts.config").write_text(HOSTS.rsplit("3 ", 1)[0])
    with pytest.raises(ConfigurationError, match="3 replicas; 4 are needed"):
        hosts(build)
    monkeypatch.setenv("PATH", str(build / "config"))
    with pytest.raises(ConfigurationError, match="needs java"):
        hosts(build)


def test_a_view_change_is_counted_by_kind() -> None:
    """Each survivor asks every other one; the new primary answers all of them."""
    result = measure_view_changes(4)
    assert result.messages["ViewChange"] == 3 * 3
    assert result.messages["NewView"] == 3
    assert result.views == 1
    assert result.largest["NewView"] > 2 * result.largest["ViewChange"]
    assert result.bytes["NewView"] == 3 * result.largest["NewView"]


def checkout(directory: Path, program: str) -> Path:
    """One whose `testbed` is this shell script."""
    path = directory / ".venv" / "bin" / "testbed"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return directory


def test_a_checkout_without_an_environment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "against", str(tmp_path)]) == 2
    assert "make setup" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("echo trouble >&2; exit 3", r"bench consensus --json .*: exit code 3: trouble"),
        ("echo {}", "not what bench consensus prints: .*latency_ms"),
    ],
)
def test_another_checkout_that_fails_is_named_with_what_it_said(
    tmp_path: Path, program: str, message: str
) -> None:
    plan = against.BenchPlan(directory=str(checkout(tmp_path, program)))
    with pytest.raises(LabFault, match=message):
        against.measure(plan, lambda _: None)


def test_when_it_is_interrupted_the_other_checkouts_bench_ends_politely(tmp_path: Path) -> None:
    """It is interrupted as soon as the other one runs: between its start and anything else."""
    program = (
        f"trap 'echo > {tmp_path}/ended; exit 0' TERM; kill -INT $PPID; while :; do sleep 0.1; done"
    )
    other = str(checkout(tmp_path, program))
    command = [sys.executable, "-m", "testbed.cli", "bench", "against", other]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 130
    assert b"interrupted" in done.stderr
    assert (tmp_path / "ended").exists()


@pytest.mark.soak
def test_a_checkout_beside_itself(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    plan = against.BenchPlan(
        directory=str(tmp_path), in_flight=8, pairs=2, alone_requests=5, turn_requests=20
    )
    said: list[str] = []
    result = against.measure(plan, said.append)
    assert [line for line in said if line.startswith("pair")] == [
        "pair 1 of 2: theirs",
        "pair 1 of 2: ours",
        "pair 2 of 2: ours",
        "pair 2 of 2: theirs",
    ]
    for each in result.compared:
        assert len(each.theirs) == len(each.ours) == each.ratio.n == 2
        assert each.ratio.value is not None
        assert each.ratio.value > 0
