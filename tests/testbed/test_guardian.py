"""Power comes back when the orchestrator is gone: the guardian switches on what is dark."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.faults.guardian import Guardian
from tests.testbed.hosts_support import eventually

ORCHESTRATOR = """
import sys, time
from pathlib import Path
from testbed.faults.guardian import Guardian
Guardian(Path(sys.argv[1]), ["pi01", "pi02"], 600.0)
print("armed", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Two hosts whose switch makes a file: `pi01.on`."""
    hosts = ""
    for number, name in enumerate(("pi01", "pi02"), 1):
        on = f'["touch", "{tmp_path}/{name}.on"]'
        power = f'{{driver: command, off: ["true"], on: {on}}}'
        hosts += f"  {name}: {{addr: 192.0.2.{number}, roles: [replica], power: {power}}}\n"
    path = tmp_path / "lab.yaml"
    path.write_text(f"schema: testbed.inventory/1\nlab: dark\nchain: {{f: 0}}\nhosts:\n{hosts}")
    return path


def on(lab: Path) -> list[str]:
    return sorted(path.name for path in lab.parent.glob("*.on"))


@pytest.fixture
def guardians() -> Iterator[list[Guardian]]:
    made: list[Guardian] = []
    yield made
    for guardian in made:
        guardian.dismiss()


def test_kill_minus_nine_of_the_orchestrator_gives_power_back(lab: Path) -> None:
    argv = [sys.executable, "-c", ORCHESTRATOR, str(lab)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as orchestrator:
        assert orchestrator.stdout is not None
        assert orchestrator.stdout.readline() == b"armed\n"
        assert on(lab) == []
        orchestrator.kill()
    eventually(lambda: on(lab) == ["pi01.on", "pi02.on"])


def test_so_does_the_end_of_the_time(lab: Path, guardians: list[Guardian]) -> None:
    guardians.append(Guardian(lab, ["pi01"], 0.1))
    eventually(lambda: on(lab) == ["pi01.on"])


def test_who_is_dismissed_does_nothing_and_ends(lab: Path) -> None:
    guardian = Guardian(lab, ["pi01"], 600.0)
    guardian.dismiss()
    guardian.dismiss()
    with pytest.raises(ProcessLookupError):
        os.kill(guardian.pid, 0)
    assert on(lab) == []
