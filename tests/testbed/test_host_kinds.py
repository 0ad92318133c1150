"""Faults of processes, hosts, clocks and disks in one real run: each is seen, healed, and over.

A kind that is not seen to take effect makes this run invalid. What each leaves behind when the
orchestrator is killed is in `test_orchestrator_killed`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.testbed.labs import local_lab, run_campaign

# A replica that lost its ledger soon votes again.
CHAIN = {"checkpoint_interval": 8}
CAMPAIGN = """
campaign: kinds
workload: {kind: enrol+data, rate: 3/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, fault: 42s, recovery: 1s}
faults:
  - {id: cpu, at: 0s, for: 6s, do: process.cpu, on: environment, percent: 30}
  - {id: memory, at: 0s, for: 6s, do: process.memory, on: gateway, mb: 32}
  - {id: io, at: 0s, for: 6s, do: process.io, on: mobile}
  - {id: stop, at: 0s, for: 4s, do: process.stop, on: primary}
  - {id: storm, at: 5s, for: 5s, do: process.restart-storm, on: replica(3), pause: 1s}
  - {id: dark, at: 12s, for: 5s, do: host.power-cut, on: backup(1)}
  - {id: reboot, at: 12s, for: 5s, do: host.reboot, on: host(phones)}
  - {id: clock, at: 19s, for: 4s, do: clock.step, on: primary, by: 60s}
  - {id: full, at: 25s, for: 5s, do: disk.full, on: replica(3)}
  - {id: admit, at: 32s, do: device.admit}
  - {id: revoke, at: 32s, do: device.revoke, on: mobile}
  - {id: rehash, at: 33s, for: 8s, do: ledger.rehash, on: replica(1)}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit, durability]
"""
EVENTS = ["cpu", "memory", "io", "stop", "storm", "dark", "reboot"]
EVENTS += ["clock", "full", "admit", "revoke", "rehash"]


Step = dict[str, Any]


def run(home: Path) -> Path:
    """The bundle of the campaign above; it passes."""
    ended, _ = run_campaign(home, CAMPAIGN, local_lab(mobiles=1, chain=CHAIN))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (found,) = (home / "runs").iterdir()
    return found


def steps_of(bundle: Path) -> dict[str, dict[str, Step]]:
    """What was written down of each event, by event and step."""
    found: dict[str, dict[str, Step]] = {}
    for line in (bundle / "run/0000-faults/raw/faults.jsonl").read_text().splitlines():
        step = json.loads(line)
        found.setdefault(step["event"], {})[step["step"]] = step
    return found


def test_each_is_seen_and_over_and_safety_holds_under_all_of_them(tmp_path: Path) -> None:
    """One test, because the run is one: workers would each make their own."""
    bundle = run(tmp_path)
    summary = json.loads((bundle / "summary.json").read_bytes())
    assert summary["verdict"] == "passed"
    assert summary["ledger_verified"]
    steps = steps_of(bundle)
    assert set(steps) == set(EVENTS)
    assert [name for name in EVENTS if not steps[name]["observed"]["seen"]] == []
    assert [name for name in EVENTS if not steps[name]["verified"]["whole"]] == []

    def read_back(event: str) -> Any:
        """Figures of the kernel, of supervisors and of others, not of who injected."""
        return steps[event]["observed"]["read_back"]

    assert read_back("cpu")["env1"] >= 0.35  # of the looks: it was stopped
    assert read_back("memory")["available_kb"]["gw1-gateway"] > 0
    assert read_back("io")["bytes"]["phones"] >= 4 * 1024 * 1024
    assert read_back("stop")["view"] >= 1
    assert read_back("storm")["lives"]["r4"] >= 2
    assert read_back("rehash")["r2"]["blocks"] >= 1
    assert len(read_back("admit")) == 1
    assert len(read_back("revoke")) == 1
