"""The fault and the attack of testbed/campaign/README.md, as they stand there: one file each, found
by itself, run, seen and judged."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import testbed.attacks
import testbed.faults
from inventory.load import load_lab
from testbed.campaign import kinds
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign
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


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A campaign of the kinds that stand in the README, each in a file of its own."""
    files = re.findall(
        r"`testbed/(faults|attacks)/(\w+)\.py`:\n\n```python\n(.*?)```", README.read_text(), re.S
    )
    assert [name for _, name, _ in files] == ["frozen", "others_topic"]
    shipped = dict(kinds.kinds())
    for package, name, text in files:
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        found = getattr(testbed, package)
        monkeypatch.setattr(found, "__path__", [*found.__path__, str(folder)])
    monkeypatch.setattr(kinds, "_registry", shipped)
    kinds._import.cache_clear()
    campaign = tmp_path / "own.yaml"
    campaign.write_text(CAMPAIGN)
    yield campaign
    kinds._import.cache_clear()
    for package, name, _ in files:
        sys.modules.pop(f"testbed.{package}.{name}", None)


def test_the_kinds_of_the_readme_are_found_and_scheduled(own: Path) -> None:
    events = expand(load_campaign(own), load_lab()).trials[0].events
    assert [(each.kind, each.skipped) for each in events] == [
        ("process.frozen", None),
        ("device.others-topic", None),
    ]
    known = kinds.kinds()
    assert known["process.frozen"].mechanism(events[0].mechanism) is not None
    assert known["device.others-topic"].judge is not None


@pytest.mark.soak
def test_the_kinds_of_the_readme_are_run_seen_and_judged(own: Path, tmp_path: Path) -> None:
    assert main(["run", str(own), "--out", str(tmp_path / "runs")]) == 0
    (summary,) = tmp_path.glob("runs/*/summary.json")
    (row,) = json.loads(summary.read_bytes())["runs"]
    (fault,), (attack,) = row["summary"]["faults"], row["summary"]["attacks"]
    assert (fault["id"], fault["observed"], fault["healed"]) == ("frozen", True, True)
    assert (attack["verdict"], attack["distinct"], attack["refused"]) == (
        "held",
        3,
        {"broker:publish-denied": 3},
    )
