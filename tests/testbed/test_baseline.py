"""The centralised baseline as a system under test: real processes, the campaigns of the chain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from inventory.load import load_lab
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign
from testbed.campaign.schedule import Schedule
from testbed.systems.baseline import BASELINE

ENDED_S_MAX = 240.0
SAFETY = "[agreement, validity, exactly-once, no-unauthorised-commit, durability]"
CAMPAIGN = f"""
schema: testbed.campaign/1
campaign: short
seed: 7
workload: {{kind: enrol+data, rate: 5/s, arrivals: uniform, timeout: 2s}}
phases: {{warmup: 2s, fault: 3s, recovery: 1s}}
faults:
  - {{id: kill-primary, at: 200ms, for: 1s, do: process.crash, on: primary}}
  - {{id: kill-backup, at: 2s, for: 500ms, do: process.crash, on: replica(2)}}
  - {{id: lie, at: 2s, for: 500ms, do: byzantine.withhold, on: random(1)}}
expect: {{safety: {SAFETY}}}
"""


def run(tmp_path: Path, text: str, *options: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The finished `testbed run`, and its bundle."""
    campaign, out = tmp_path / "short.yaml", tmp_path / "runs"
    campaign.write_text(text)
    before = set(out.glob("*"))
    argv = [sys.executable, "-m", "testbed.cli", "run", str(campaign), "--out", str(out), *options]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=ENDED_S_MAX)
    (bundle,) = set(out.glob("*")) - before
    return ended, bundle


def summary_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "summary.json").read_bytes())
    return found


def test_a_campaign_of_the_chain_runs_against_the_provider(tmp_path: Path) -> None:
    """Admission, data, a killed provider that comes back; and what it has no part for is skipped
    with the reason, so the result is partial."""
    ended, bundle = run(tmp_path, CAMPAIGN, "--system", "baseline")
    assert ended.returncode == 4, ended.stdout + ended.stderr
    found = summary_of(bundle)
    assert found["verdict"] == "partial"
    assert found["devices_admitted"] == found["devices_expected"] == 5
    assert found["latency_ms"]["data"]["n"] == found["data_records"] > 20
    assert found["latency_ms"]["data"]["censored"] == 0
    assert {each["name"]: each["held"] for each in found["properties"]} == {
        "exactly-once": True,
        "durability": True,
    }
    (killed,) = found["faults"]
    assert (killed["targets"], killed["observed"], killed["healed"]) == (["r1"], 1, 1)
    assert {each["id"]: each["reason"].partition(":")[0] for each in found["skipped"]} == {
        "kill-backup": "the baseline has no such part",
        "lie": "one process decides alone; there is no consensus to disturb",
    }
    assert found["ledger_verified"] is False
    assert list(bundle.rglob("r1.sqlite"))
    assert not list(bundle.rglob("escrow*")), "keys of devices came home"


def schedules(tmp_path: Path) -> tuple[Schedule, Schedule]:
    path = tmp_path / "short.yaml"
    path.write_text(
        CAMPAIGN.replace("  - {id: lie, at: 2s", "  - {id: lie, at: 2600ms").replace(
            "for: 500ms, do: byz", "for: 300ms, do: byz"
        )
    )
    campaign, lab = load_campaign(path), load_lab()
    return expand(campaign, lab), expand(campaign, lab, system=BASELINE)


def test_both_systems_meet_the_same_arrivals(tmp_path: Path) -> None:
    """Of mobile devices by name; boards' readings are sent by the devices that they hang on."""
    chain, baseline = (each.trials[0] for each in schedules(tmp_path))
    ours = {device.name: device for device in baseline.devices}
    boards = [device for device in chain.devices if device.role == "board"]
    assert {device.role for device in baseline.devices} == {"mobile", "environment"}
    for device in chain.devices:
        if device.role == "mobile":
            assert ours[device.name] == device
        if device.role == "environment":
            sends = [board.sends_ms for board in boards if board.host == device.host]
            assert [ours[device.name].sends_ms] == sends
            assert ours[device.name].enrol_at_ms == device.enrol_at_ms


def test_a_schedule_names_its_system(tmp_path: Path) -> None:
    chain, baseline = schedules(tmp_path)
    assert (chain.system, len(chain.replicas), chain.f) == ("chain", 4, 1)
    assert (baseline.system, len(baseline.replicas), baseline.f) == ("baseline", 1, 0)
    assert Schedule.from_json(baseline.canonical_json()) == baseline
    assert chain.schedule_hash != baseline.schedule_hash
