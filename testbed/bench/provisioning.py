"""The time to make hosts ready, and their use of disk then; measured on an emulated lab.

The bench runs the user's command (`testbed provision`), so the figures include its start,
connecting and the table. Wheels are resolved before. The steps are copying, building and checking.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from inventory.load import load_lab
from testbed.campaign.hosts import opened_hosts
from testbed.emulate.lab import EmulatedLab, down, up
from testbed.emulate.plan import EmulationOptions
from testbed.errors import LabFault
from testbed.hosts.port import Host
from testbed.provision.deployment import Deployment

__all__ = ["Provisioning", "measure_provisioning"]

DISK_MB = 512


class Provisioning(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of the whole command; `steps_s` of each host when all were made ready at once.

    `ratio` is all hosts : one host. `tree_mb` is the largest deployed tree, `replica_*` the largest
    idle replica process (RSS, and PSS: shared pages divided among those who share them).
    """

    hosts: int
    all_s: float
    again_s: float
    one_s: float
    steps_s: dict[str, dict[str, float]]
    tree_mb: float
    replica_rss_mb: float
    replica_pss_mb: float

    @property
    def ratio(self) -> float:
        return self.all_s / self.one_s


def measure_provisioning(hosts: int) -> Provisioning:
    """Makes a lab, measures, takes it down. Needs root. Raises LabFault, ConfigurationError."""
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as directory:
        out = Path(directory) / "lab"
        try:
            lab = up(out, EmulationOptions(hosts, disk_mb=DISK_MB))
            return _measure(lab, hosts)
        finally:
            down(out)


def _measure(lab: EmulatedLab, hosts: int) -> Provisioning:
    _testbed(lab, "provision", "--check")  # resolves the wheels, once for all hosts
    everyone = _testbed(lab, "provision")
    again = _testbed(lab, "provision")
    changed = [name for name, one in again["hosts"].items() if one["changed"]]
    if changed:
        raise LabFault(f"provision again changed {', '.join(changed)}")
    rss_kb, pss_kb, tree_kb = _standing(lab)
    last = lab.plan.machines[-1].name
    _testbed(lab, "deprovision", "--limit", last)
    one = _testbed(lab, "provision", "--limit", last)
    return Provisioning(
        hosts=hosts,
        all_s=everyone["took_s"],
        again_s=again["took_s"],
        one_s=one["took_s"],
        steps_s={name: dict(host["steps_s"]) for name, host in everyone["hosts"].items()},
        tree_mb=round(tree_kb / 1024, 1),
        replica_rss_mb=round(rss_kb / 1024, 1),
        replica_pss_mb=round(pss_kb / 1024, 1),
    )


def _testbed(lab: EmulatedLab, *words: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "testbed.cli", *words, "-i", str(lab.inventory), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabFault(f"testbed {' '.join(words)}: {(done.stdout + done.stderr).strip()[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _standing(lab: EmulatedLab) -> tuple[int, int, int]:
    """KB: resident and proportional memory of the largest replica, and the largest tree."""
    model = load_lab(lab.inventory)
    with (
        opened_hosts(model) as (hosts, python),
        Deployment(model, hosts, python, lambda _: None) as network,
    ):
        trees = [_number(host.run(["du", "-sk", "."]).stdout, r"(\d+)") for host in hosts.values()]
        network.set_up()
        network.start()
        memory = [_memory(network.host(node), node.unit) for node in network.with_role("replica")]
    return max(rss for rss, _ in memory), max(pss for _, pss in memory), max(trees)


def _memory(host: Host, unit: str) -> tuple[int, int]:
    said = host.run(["cat", f"/proc/{host.status(unit).pid}/smaps_rollup"]).stdout
    return _number(said, r"Rss:\s+(\d+)"), _number(said, r"Pss:\s+(\d+)")


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise LabFault(f"strange answer {text[:200]!r}")
    return int(found[1])
