"""The fault and the attack of testbed/campaign/README.md, as they stand there: one file each, found
by itself, run, seen and judged."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import testbed.attacks
import testbed.faults
from testbed.campaign import kinds
from testbed.cli import main

README = Path(__file__).parents[2] / "testbed" / "campaign" / "README.md"
CAMPAIGN = """
campaign: own
workload: {kind: enrol+data, rate: 6/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, attack: 7s, recovery: 1s}
faults:
  - {id: frozen, at: 1s, for: 3s, do: process.frozen, on: backup(1)}
  - {id: topic, at: 5s, do: device.others-topic}
"""


def test_the_kinds_of_the_readme_are_found_run_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = re.findall(
        r"`testbed/(faults|attacks)/(\w+)\.py`:\n\n```python\n(.*?)```", README.read_text(), re.S
    )
    assert [name for _, name, _ in files] == ["frozen", "others_topic"]
    for package, name, text in files:
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        found = getattr(testbed, package)
        monkeypatch.setattr(found, "__path__", [*found.__path__, str(folder)])
    monkeypatch.setattr(kinds, "_registry", dict(kinds._registry))
    kinds._import.cache_clear()
    try:
        (tmp_path / "own.yaml").write_text(CAMPAIGN)
        assert main(["run", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "runs")]) == 0
    finally:
        kinds._import.cache_clear()
        for package, name, _ in files:
            sys.modules.pop(f"testbed.{package}.{name}", None)
    (summary,) = tmp_path.glob("runs/*/summary.json")
    (row,) = json.loads(summary.read_bytes())["runs"]
    (fault,), (attack,) = row["summary"]["faults"], row["summary"]["attacks"]
    assert (fault["id"], fault["observed"], fault["healed"]) == ("frozen", True, True)
    assert (attack["verdict"], attack["distinct"], attack["refused"]) == (
        "held",
        3,
        {"broker:publish-denied": 3},
    )
