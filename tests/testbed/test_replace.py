"""`replica.replace`: a lost replica is replaced by a spare, decided by the chain itself.

In a lab that stands: `test_api`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from inventory.load import load_lab, packaged
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.injection import Scene
from testbed.cli import main
from testbed.errors import LabFault
from testbed.faults.replace import ReplaceAction

CAMPAIGN = """
campaign: lost
workload: {kind: enrol+data, rate: 10/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, fault: 28s, recovery: 2s}
faults: [{id: replace, at: 1s, for: 26s, do: replica.replace, on: primary}]
expect: {liveness: {first_commit_after_heal: 15s}}
"""


def summary_of(tmp_path: Path, exit_code: int, campaign: str = CAMPAIGN) -> dict[str, Any]:
    """Of the one run of the campaign."""
    (tmp_path / "campaign.yaml").write_text(campaign)
    out = tmp_path / "runs"
    assert main(["run", str(tmp_path / "campaign.yaml"), "--out", str(out)]) == exit_code
    (summary,) = out.glob("*/summary.json")
    (run,) = json.loads(summary.read_bytes())["runs"]
    found: dict[str, Any] = run["summary"]
    return found


def heights_of(summary: dict[str, Any]) -> dict[str, int]:
    """Of each ledger that was collected."""
    (agreement,) = (each for each in summary["properties"] if each["name"] == "agreement")
    pairs = agreement["detail"].removeprefix("heights: ").split(", ")
    return {name: int(height) for name, height in map(str.split, pairs)}


@pytest.mark.soak
def test_a_lost_primary_is_replaced_and_the_spare_decides(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, 0)
    (replaced,) = summary["faults"]
    assert replaced["observed"]
    assert replaced["seen"].startswith("spare1 decides after ")
    assert replaced["seen"].count(f"{replaced['target']} is out after ") == 1
    assert replaced["whole_ms"] is not None, "the spare has all that the others have"
    assert all(each["held"] for each in summary["properties"])
    heights = heights_of(summary)
    assert heights["spare1"] == summary["blocks"]
    assert heights[replaced["target"]] < summary["blocks"], "it had no part in the rest"


@pytest.mark.soak
def test_a_spare_that_fails_makes_the_run_invalid_and_the_old_replica_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ReplaceAction.apply

    def without_spare(action: ReplaceAction) -> None:
        for node in action.scene.deployment.with_role("spare"):
            action.scene.deployment.hold_down(node)
        honest(action)

    monkeypatch.setattr(ReplaceAction, "apply", without_spare)
    soon = CAMPAIGN.replace("fault: 28s", "fault: 10s").replace("for: 26s", "for: 8s")
    summary = summary_of(tmp_path, 3, soon)
    assert summary["verdict"] == "invalid"
    (replaced,) = summary["faults"]
    assert not replaced["observed"]
    assert replaced["recovery_ms"] is not None, "with the old one back there is a quorum of five"


def test_who_was_not_replaced_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain decides nothing until `for` has passed: nothing is seen, and the lab has its old
    replica again."""
    lost = SimpleNamespace(name="r1")
    did: list[str] = []
    within: list[float] = []

    def operate(_: object, within_s: float) -> None:
        within.append(within_s)
        raise LabFault("the chain decided nothing")

    monkeypatch.setattr(
        "testbed.faults.replace.operator_of", lambda _: SimpleNamespace(operate=operate)
    )
    scene = SimpleNamespace(
        event=SimpleNamespace(for_ms=6000),
        nodes=lambda _: [lost],
        pause=lambda _: True,
        deployment=SimpleNamespace(
            hold_down=lambda node: did.append(f"{node.name} is held down"),
            start_node=lambda node: did.append(f"{node.name} is started"),
        ),
    )
    action = ReplaceAction(cast(Scene, scene))
    action.apply()
    assert action.observe(1.0) is None
    assert action.observe(1.0) is None, "the order is given once"
    action.heal()
    assert did == ["r1 is held down", "r1 is started"]
    (waited_s,) = within
    assert 0 < waited_s <= 6, "as long as `for`, and no longer"


def test_without_a_spare_it_is_skipped_with_the_reason(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lines = packaged("loopback").read_text().splitlines(keepends=True)
    lab.write_text("".join(line for line in lines if "spare" not in line))
    schedule = expand(load_campaign(find_campaign("replace")), load_lab(lab))
    (event,) = schedule.trials[0].events
    assert event.skipped == "no host of this lab has the role spare; it takes one more host"


@pytest.mark.soak
def test_a_chain_that_stands_still_is_a_verdict_and_no_fault_of_the_lab(tmp_path: Path) -> None:
    """The order waits until `for` has passed, and no longer."""
    campaign = """
campaign: stuck
workload: {kind: enrol+data, rate: 10/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, fault: 10s, recovery: 2s}
faults:
  - {id: stuck, at: 1s, for: 8s, do: process.stop, on: replica(2)}
  - {id: replace, at: 2s, for: 6s, do: replica.replace, on: replica(1)}
guard: none
"""
    summary = summary_of(tmp_path, 3, campaign)
    assert summary["verdict"] == "invalid"
    (manifest,) = tmp_path.glob("runs/*/manifest.json")
    assert [run["state"] for run in json.loads(manifest.read_bytes())["runs"]] == ["invalid"]
    found = {each["id"]: each for each in summary["faults"]}
    assert found["stuck"]["observed"]
    assert not found["replace"]["observed"]
    assert all(each["held"] for each in summary["properties"])
