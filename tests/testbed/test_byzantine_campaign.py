"""Replicas that lie in a campaign, with real processes: up to f all holds, with f+1 it breaks.

The wrapper is the simulator's. A lie that nobody saw take effect would make these runs invalid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.file import find_campaign
from tests.testbed.labs import local_lab, run_campaign

LAB = local_lab(mobiles=1, boards=0)
HELD = """
campaign: liars
workload: {kind: enrol+data, rate: 4/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, attack: 21s, recovery: 1s}
faults:
  - {id: silent, at: 0s, for: 4s, do: byzantine.silent, on: primary}
  - {id: two-faced, at: 4500ms, for: 4s, do: byzantine.equivocate, on: primary}
  - {id: forger, at: 9s, for: 4s, do: byzantine.bad-signature, on: backup(1)}
  - {id: liar, at: 13s, for: 2s, do: byzantine.false-seal, on: backup(1)}
  # One key in two processes: they take links from each other, and cost no more than one liar.
  - {id: twins, at: 15500ms, for: 5s, do: byzantine.twins, on: replica(3)}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
  liveness: {first_commit_after_heal: 10s}
"""
FORK = find_campaign("beyond-the-bound").read_text()


def broken(summary: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["detail"] for each in summary["properties"] if not each["held"]}


@pytest.mark.soak
def test_one_liar_after_the_other_breaks_nothing_and_each_is_seen_and_healed(
    tmp_path: Path,
) -> None:
    ended, summary = run_campaign(tmp_path, HELD, LAB)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert summary["verdict"] == "passed"
    assert summary["devices_admitted"] == summary["devices_expected"] == 2
    assert summary["data_records"] > 20
    assert summary["view_changes"] >= 2
    (of_run,) = [row["summary"] for row in summary["runs"]]
    steps = [(each["applied"], each["observed"], each["healed"]) for each in of_run["faults"]]
    assert steps == [(True, True, True)] * 5
    assert all(each["whole_ms"] is not None for each in of_run["faults"])
    assert broken(summary) == {}


@pytest.mark.soak
def test_f_plus_one_liars_fork_the_chain_and_are_found_out(tmp_path: Path) -> None:
    """The bound is shown, by a checker that can fail: two honest replicas differ. The shipped
    campaign is meant to show that, so it passes."""
    ended, summary = run_campaign(tmp_path, FORK, LAB)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (fault,) = summary["runs"][0]["summary"]["faults"]
    assert fault["observed"]
    liars = fault["target"].replace("with ", "").split("; ")
    honest = sorted({"r1", "r2", "r3", "r4"} - {*liars})
    assert len(honest) == 2
    assert broken(summary)["agreement"].startswith(f"{honest[0]} and {honest[1]} differ at height")
    assert "no, as expected" in ended.stdout


def test_more_than_f_liars_are_not_let_loose_by_accident(tmp_path: Path) -> None:
    ended, summary = run_campaign(tmp_path, FORK.replace("guard: none", ""), LAB)
    assert ended.returncode == 2
    assert "write `guard: none`" in ended.stderr
    assert not summary
