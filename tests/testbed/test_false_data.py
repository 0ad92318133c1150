"""`sensor.false-data` on a running network: a filter finds two liars of five, but not three.

The chain takes all of it, because it is well signed.
"""

from __future__ import annotations

import json
from pathlib import Path

from testbed.cli import main
from tests.testbed.bundles import traced_to_the_end
from tests.testbed.labs import local_lab

LAB = local_lab(mobiles=3, boards=2)
CAMPAIGN = """
campaign: lies
seed: 11
workload: {kind: enrol+data, rate: 10/s, arrivals: poisson, timeout: 5s}
phases: {warmup: 4s, attack: 15500ms, recovery: 1s}
faults:
  - {id: drifts, at: 500ms, for: 8s, do: sensor.false-data, how: drift, by: 800, on: mobile(0)}
  - {id: freezes, at: 500ms, for: 8s, do: sensor.false-data, how: freeze, on: board(th02)}
  - {id: majority, at: 9500ms, for: 6s, do: sensor.false-data, how: bias, by: 3000, on: mobile}
expect: {broken: [majority]}
"""


def test_a_minority_is_found_on_the_ledger_and_a_majority_is_not(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    (tmp_path / "lab.yaml").write_text(LAB)
    argv = ["run", str(tmp_path / "campaign.yaml"), "-i", str(tmp_path / "lab.yaml")]
    assert main([*argv, "--out", str(tmp_path / "runs")]) == 0
    (bundle,) = (tmp_path / "runs").iterdir()
    (run,) = json.loads((bundle / "summary.json").read_bytes())["runs"]
    assert all(each["held"] for each in run["summary"]["properties"]), "false data is well signed"
    found = {each["id"]: each for each in run["summary"]["attacks"]}
    verdicts = {name: each["verdict"] for name, each in found.items()}
    assert verdicts == {"drifts": "held", "freezes": "held", "majority": "broken"}
    assert found["majority"]["successes"] >= 1, "as soon as they are many, they are the truth"
    for name in ("drifts", "freezes"):
        details = found[name]["details"]
        assert details["lies"] >= details["lies_found"] > 0
        assert details["found_lo95"] < details["lies_found"] / details["lies"]
        assert 0 <= details["delay_p50_s"] <= 9
        assert 0 < details["false_alarm_upper95"] < 1
    traced_to_the_end(bundle / run["path"] / "derived")
    assert list(bundle.glob("run/*/plots/roc.svg"))
    assert "Lies of sensors found, against false alarms" in (bundle / "report.html").read_text()
