"""`byzantine.twins` where it cannot be done. What it does: `test_byzantine_campaign`."""

from __future__ import annotations

from pathlib import Path

from inventory.load import load_lab
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign

CAMPAIGN = """
schema: testbed.campaign/1
campaign: cloned
seed: 5
workload: {kind: enrol+data, rate: 10/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 5s, fault: 12s, recovery: 4s}
faults: [{id: twins, at: 1s, for: 10s, do: byzantine.twins, on: replica(3)}]
guard: {max_faulty: f, dead_man: 30s}
expect: {liveness: {first_commit_after_heal: 10s}}
"""


def test_a_twin_that_nobody_would_hear_is_skipped_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN.replace("replica(3)", "replica(0)"))
    (event,) = expand(load_campaign(path), load_lab()).trials[0].events
    assert event.skipped is not None
    assert event.skipped.startswith("r1 dials no replica")
