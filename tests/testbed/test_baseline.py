"""The centralised baseline as a system under test, beside the chain: real processes, one campaign.

The campaign runs against both once; the tests read the two bundles.
"""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from inventory.load import load_lab
from nodes.edge_config import GatewayLimits
from nodes.provider.store import read_readings
from testbed import cli
from testbed.campaign.expand import expand
from testbed.campaign.file import campaign_paths, find_campaign, load_campaign
from testbed.campaign.schedule import Schedule
from testbed.systems.baseline import BASELINE
from tests.testbed.labs import local_lab

ENDED_S_MAX = 300.0
FIT_BOTH = ("process", "host", "store", "gateway", "broker")  # kinds
# A thief whose provider is killed meanwhile reaches nothing: he is done before.
CAMPAIGN = """
schema: testbed.campaign/1
campaign: short
seed: 7
workload: {kind: enrol+data, rate: 5/s, arrivals: uniform, timeout: 2s}
phases: {warmup: 2s, fault: 12s, recovery: 1s}
faults:
  - {id: steal, at: 200ms, do: store.steal, batch: 10}
  - {id: kill-primary, at: 3s, for: 3s, do: process.crash, on: primary}
  - {id: squeeze-backup, at: 6500ms, for: 3s, do: process.memory, on: replica(2), mb: 32}
  - {id: flood, at: 6500ms, for: 3s, do: device.flood, how: valid, rate: 400/s}
  - {id: alter, at: 10s, for: 1s, do: store.alter, on: replica(0)}
expect: {broken_in: {baseline: [steal, alter]}}
"""
LYING = """
schema: testbed.campaign/1
campaign: lying
workload: {kind: enrol+data, rate: 5/s, arrivals: poisson, timeout: 2s}
phases: {warmup: 2s, fault: 8s}
faults: [{id: lie, for: 1s, do: byzantine.withhold, on: primary}]
"""


class Result:
    """A finished `testbed run`."""

    def __init__(self, process: subprocess.Popen[str], out: Path) -> None:
        self.said, _ = process.communicate(timeout=ENDED_S_MAX)
        self.code = process.returncode
        (self.bundle,) = out.glob("*")
        self.summary: dict[str, Any] = json.loads((self.bundle / "summary.json").read_bytes())

    def attack(self, name: str) -> dict[str, Any]:
        (found,) = (each for each in self.summary["attacks"] if each["id"] == name)
        return dict(found)

    @property
    def raw(self) -> Path:
        return self.bundle / "run/0000-faults/raw"

    def lines(self, log: str) -> list[dict[str, Any]]:
        path = self.raw / f"{log}.jsonl"
        return [json.loads(each) for each in path.read_text().splitlines()]

    def flooded(self, taken_by: str) -> tuple[int, float]:
        """How many of the flood's messages were taken, and how many its device may send in the time
        until the last of them."""
        (line,) = (each for each in self.lines("attacks") if each["id"] == "flood")
        relay = line["trials"][0].split("/")[1]
        began = next(each["t"] for each in self.lines("faults") if each["event"] == "flood")
        came = (each for each in self.lines(taken_by) if each["event"] == "request")
        taken = [
            each["t"] for each in came if each["relay"] == relay and each["outcome"] == "accepted"
        ]
        limits = GatewayLimits()
        return len(taken), limits.burst + limits.rate_per_s * (max(taken) - began) / 1e9


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Of both systems, by name."""
    here = tmp_path_factory.mktemp("systems")
    campaign, lab = here / "short.yaml", here / "lab.yaml"
    campaign.write_text(CAMPAIGN)
    lab.write_text(local_lab())
    started = {}
    for system in ("chain", "baseline"):
        argv = [sys.executable, "-m", "testbed.cli", "run", str(campaign), "-i", str(lab)]
        started[system] = subprocess.Popen(
            [*argv, "--system", system, "--out", str(here / system)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return {system: Result(process, here / system) for system, process in started.items()}


@pytest.fixture
def chain(results: dict[str, Result]) -> Result:
    return results["chain"]


@pytest.fixture
def baseline(results: dict[str, Result]) -> Result:
    return results["baseline"]


def test_the_chain_passes_and_the_baseline_breaks_as_expected(
    chain: Result, baseline: Result
) -> None:
    """An event that the baseline has no part for is skipped, so its result is partial."""
    assert (chain.code, chain.summary["verdict"]) == (0, "passed"), chain.said
    assert (baseline.code, baseline.summary["verdict"]) == (4, "partial"), baseline.said
    (skipped,) = baseline.summary["skipped"]
    assert skipped["id"] == "squeeze-backup"
    assert skipped["reason"].startswith("the baseline has no such part")


def test_a_killed_provider_comes_back_with_all_that_it_receipted(baseline: Result) -> None:
    found = baseline.summary
    assert found["devices_admitted"] == found["devices_expected"] == 3
    assert found["latency_ms"]["data"]["n"] > 30
    (killed,) = found["faults"]
    assert (killed["targets"], killed["observed"], killed["healed"]) == (["r1"], 1, 1)
    assert {each["name"]: each["held"] for each in found["properties"]} == {
        "exactly-once": True,
        "durability": True,
    }


def test_a_stolen_escrow_impersonates_devices_and_stolen_ledgers_do_not(
    chain: Result, baseline: Result
) -> None:
    """The chain has no key escrow: in four ledgers there is no private key."""
    stolen = baseline.attack("steal")
    # A message that the device's own next reading overtook proves nothing.
    assert (stolen["verdict"], stolen["trials"]) == ("broken", 10)
    assert stolen["successes"] == stolen["observed"] > 5
    assert stolen["details"]["keys_found"] == 3
    stolen = chain.attack("steal")
    assert (stolen["verdict"], stolen["successes"], stolen["observed"]) == ("held", 0, 10)
    assert stolen["details"]["keys_found"] == 0


def test_both_are_flooded_through_the_same_door(chain: Result, baseline: Result) -> None:
    """He sends what either takes of his own device. Its rate is limited, and others are served.
    (On a busy machine he may stay below that rate: then nothing need be refused.)"""
    for system, taken_by in ((chain, "gw1-gateway"), (baseline, "r1")):
        flood = system.attack("flood")
        assert (flood["verdict"], flood["observed"]) == ("held", 1)
        taken, allowed = system.flooded(taken_by)
        assert 0 < taken <= allowed
        if flood["details"]["messages"] > allowed:
            assert flood["refused"].keys() & {"gateway:rate", "gateway:busy"}
        assert flood["details"]["goodput_per_s"] > 0
    assert baseline.summary["devices_admitted"] == 3, "the attacker's own is none of the lab's"


def test_an_altered_record_is_found_on_the_chain_only(chain: Result, baseline: Result) -> None:
    """The altered reading still stands in the provider's store, and its device has a receipt."""
    assert chain.attack("alter")["refused"] == {"store:damage found": 1}
    assert chain.summary["ledger_verified"] is True
    assert baseline.attack("alter")["verdict"] == "broken"
    attacks = baseline.lines("attacks")
    (trial,) = (trial for each in attacks if each["id"] == "alter" for trial in each["trials"])
    stored = read_readings(baseline.raw / "ledger/r1.sqlite")
    assert trial.rpartition("/")[2] in {sha256(each.body).hexdigest() for each in stored}


def test_a_bundle_has_no_key_of_a_device(baseline: Result) -> None:
    assert baseline.summary["ledger_verified"] is False
    assert list(baseline.bundle.rglob("r1.sqlite"))
    assert not list(baseline.bundle.rglob("escrow*"))


def test_compare_sets_both_systems_side_by_side(
    chain: Result, baseline: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One table and one figure, with what the baseline does better: a record costs less."""
    drawn = tmp_path / "beside.svg"
    argv = ["compare", str(chain.bundle), str(baseline.bundle), "--figure", str(drawn)]
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert "(chain)" in printed
    assert "(baseline)" in printed
    assert "which had the same arrivals" in printed, "the schedules differ"
    assert drawn.read_bytes().startswith(b"<?xml")
    assert cli.main([*argv, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert found["obstacles"] == []
    verdicts = {each["name"]: (each["a"], each["b"]) for each in found["verdicts"]}
    assert verdicts["attack steal"] == verdicts["attack alter"] == ("held", "broken")
    assert verdicts["durability"] == ("held", "held")
    assert verdicts["validity"] == ("held", "not judged")
    figures = {each["name"]: each for each in found["figures"]}
    assert {"goodput", "p99", "admission", "recovery"} <= figures.keys()
    assert figures["stored"]["ratio"]["value"] < 1
    assert figures["stored"]["paired"]


# --- schedules ------------------------------------------------------------------------------------


def schedules(tmp_path: Path, text: str) -> tuple[Schedule, Schedule]:
    path = tmp_path / "short.yaml"
    path.write_text(text)
    campaign, lab = load_campaign(path), load_lab()
    return expand(campaign, lab), expand(campaign, lab, system=BASELINE)


def test_both_systems_meet_the_same_arrivals(tmp_path: Path) -> None:
    """Of mobile devices by name; boards' readings are sent by the devices that they hang on."""
    chain, baseline = (each.trials[0] for each in schedules(tmp_path, CAMPAIGN))
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


def test_a_schedule_names_its_system_and_what_is_expected_of_it(tmp_path: Path) -> None:
    chain, baseline = schedules(tmp_path, CAMPAIGN)
    assert (chain.system, len(chain.replicas), chain.f) == ("chain", 4, 1)
    assert (baseline.system, len(baseline.replicas), baseline.f) == ("baseline", 1, 0)
    assert (chain.expect.broken, baseline.expect.broken) == ((), ("steal", "alter"))
    assert Schedule.from_json(baseline.canonical_json()) == baseline


@pytest.mark.parametrize("name", list(campaign_paths()))
def test_every_shipped_campaign_can_be_scheduled_for_the_baseline(name: str) -> None:
    """What speaks the chain's protocol, or is done inside its processes, is never begun there."""
    schedule = expand(load_campaign(find_campaign(name)), load_lab(), system=BASELINE)
    begun = {each.kind for each in schedule.trials[0].events if each.skipped is None}
    assert {kind.partition(".")[0] for kind in begun - {"device.flood"}} <= set(FIT_BOTH)


def test_what_means_nothing_to_a_system_is_skipped_with_the_reason(tmp_path: Path) -> None:
    chain, baseline = (each.trials[0].events[0] for each in schedules(tmp_path, LYING))
    assert chain.skipped is None
    assert baseline.skipped == "one process decides alone; there is no consensus to disturb"
