"""More than f replicas that lie in a campaign, with real processes: the chain forks. Up to f liars
break nothing: `test_network_campaign`.

The wrapper is the simulator's. A lie that nobody saw take effect would make these runs invalid.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.file import find_campaign
from tests.testbed.command_line import run_testbed

LAB = """
schema: testbed.inventory/1
lab: liars
hosts:
  r1: {connection: local, roles: [replica]}
  r2: {connection: local, roles: [replica]}
  r3: {connection: local, roles: [replica]}
  r4: {connection: local, roles: [replica]}
  gw1: {connection: local, roles: [gateway, broker]}
  env1: {connection: local, roles: [environment]}
  phones: {connection: local, roles: [mobile], mobiles: 1}
"""
FORK = find_campaign("beyond-the-bound").read_text()


def run(
    tmp_path: Path, campaign: str, lab: str = LAB
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """`testbed run` on the lab of this file, or another; its end, and the summary (empty if there
    is none)."""
    (tmp_path / "lab.yaml").write_text(lab)
    (tmp_path / "campaign.yaml").write_text(campaign)
    argv = ["run", str(tmp_path / "campaign.yaml"), "-i", str(tmp_path / "lab.yaml")]
    ended = run_testbed(*argv, "--out", str(tmp_path / "runs"))
    summaries = list(tmp_path.glob("runs/*/summary.json"))
    return ended, json.loads(summaries[0].read_bytes()) if summaries else {}


def broken(summary: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["detail"] for each in summary["properties"] if not each["held"]}


@pytest.mark.soak
def test_f_plus_one_liars_fork_the_chain_and_are_found_out(tmp_path: Path) -> None:
    """The bound is shown, by a checker that can fail: two honest replicas differ. The shipped
    campaign is meant to show that, so it passes."""
    ended, summary = run(tmp_path, FORK)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (fault,) = summary["runs"][0]["summary"]["faults"]
    assert fault["observed"]
    liars = fault["target"].replace("with ", "").split("; ")
    honest = sorted({"r1", "r2", "r3", "r4"} - {*liars})
    assert len(honest) == 2
    assert broken(summary)["agreement"].startswith(f"{honest[0]} and {honest[1]} differ at height")
    assert "no, as expected" in ended.stdout


def test_more_than_f_liars_are_not_let_loose_by_accident(tmp_path: Path) -> None:
    ended, summary = run(tmp_path, FORK.replace("guard: none", ""))
    assert ended.returncode == 2
    assert "write `guard: none`" in ended.stderr
    assert not summary
