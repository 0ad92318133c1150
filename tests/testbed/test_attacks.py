"""Every kind of attack on a running network: held where all is checked, broken where nothing is.

One network serves all kinds: each judges what it sent itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import main
from testbed.hosts.port import Unit
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
from tests.testbed.labs import local_lab

UNCHECKED = Path(__file__).with_name("unchecked.py")
WORKLOAD = "workload: {kind: enrol+data, rate: 4/s, arrivals: uniform, timeout: 5s}"
# Without limits: these only keep the service up, nothing that is refused depends on them. After
# line-drop a line is left alone for some readings: the next one shows which numbers are missing.
HELD = f"""
campaign: held
{WORKLOAD}
phases: {{warmup: 6s, attack: 18s, recovery: 2s}}
faults:
  - {{id: no-limits, at: 0s, do: gateway.no-limits}}
  - {{id: impersonate, at: 1s, do: device.impersonate, batch: 12}}
  - {{id: inside, at: 2s, do: device.replay, window: inside, messages: [admission, data]}}
  - {{id: alter, at: 0s, for: 3s, do: device.mitm, on: mobile}}
  - {{id: downgrade, at: 0s, for: 3s, do: device.mitm, on: environment, how: downgrade}}
  - {{id: reflect, at: 3s, for: 3s, do: device.mitm, on: environment, how: reflect}}
  - {{id: drop, at: 3s, for: 3s, do: device.mitm, on: mobile, how: drop}}
  - {{id: delay, at: 6s, for: 3s, do: device.mitm, on: mobile, how: delay}}
  - {{id: line-alter, at: 0s, for: 4s, do: serial.mitm, on: board}}
  - {{id: line-reflect, at: 4500ms, for: 2s, do: serial.mitm, on: board, how: reflect}}
  - {{id: line-drop, at: 6800ms, for: 2200ms, do: serial.mitm, on: board, how: drop}}
  - {{id: line-delay, at: 11500ms, for: 3s, do: serial.mitm, on: board, how: delay}}
  - {{id: takeover, at: 6s, do: device.takeover}}
  - {{id: hijack, at: 7s, do: device.topic-hijack}}
  - {{id: listen, at: 8s, do: device.eavesdrop}}
  - {{id: more, at: 9s, do: device.escalate}}
  - {{id: sybil, at: 9s, do: device.sybil, batch: 10}}
  - {{id: flood, at: 10500ms, for: 4s, do: device.flood, how: invalid, rate: 50/s}}
  - {{id: session, at: 11500ms, do: device.replay, window: other-session, messages: [serial]}}
  - {{id: crash, at: 13500ms, for: 3s, do: process.crash, on: gateway}}
  - {{id: restarted, at: 17500ms, do: device.replay, window: after-restart, messages: [data]}}
"""
# An access request is remembered by its head for 256 blocks (`enrol_window_blocks`).
BEYOND = """
campaign: beyond
workload: {kind: enrol+data, rate: 20/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 8s, attack: 44s, recovery: 2s}
faults:
  - id: beyond
    at: 34s
    every: 3s
    until: 44s
    do: device.replay
    window: beyond
    messages: [admission, data]
"""
BROKEN = f"""
campaign: broken
{WORKLOAD}
phases: {{warmup: 6s, attack: 13s, recovery: 1s}}
faults:
  - {{id: impersonate, at: 1s, do: device.impersonate, material: [stolen-id], batch: 20}}
  - {{id: alter, at: 0s, for: 3s, do: device.mitm, on: mobile, copies: 20}}
  - {{id: line-alter, at: 0s, for: 7s, do: serial.mitm, on: board, copies: 5}}
  - {{id: takeover, at: 2s, do: device.takeover}}
  - {{id: hijack, at: 1s, do: device.topic-hijack}}
  - {{id: listen, at: 1s, do: device.eavesdrop}}
  - {{id: more, at: 3s, do: device.escalate}}
  - {{id: sybil, at: 4s, do: device.sybil, batch: 10}}
  - {{id: flood, at: 8s, for: 2s, every: 3s, until: 12s, do: device.flood, rate: 400/s}}
"""


def judged(campaign: str, tmp_path: Path) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """What became of each attack, by its id; and the properties that did not hold."""
    (tmp_path / "campaign.yaml").write_text(campaign)
    (tmp_path / "lab.yaml").write_text(local_lab())
    argv = ["run", str(tmp_path / "campaign.yaml"), "-i", str(tmp_path / "lab.yaml")]
    main([*argv, "--out", str(tmp_path / "runs")])
    (summary,) = tmp_path.glob("runs/*/summary.json")
    found = json.loads(summary.read_bytes())
    (run,) = found["runs"]
    assert [each["id"] for each in run["summary"]["faults"] if not each["observed"]] == []
    attacks, properties = run["summary"]["attacks"], run["summary"]["properties"]
    wrong = {each["name"] for each in properties if each["held"] is False}
    return {each["id"]: each for each in attacks}, wrong


def layers(attack: dict[str, Any], layer: str) -> set[str]:
    """The reasons that a layer gave."""
    return {each.partition(":")[2] for each in attack["refused"] if each.startswith(f"{layer}:")}


def test_a_network_that_checks_holds(tmp_path: Path) -> None:
    found, wrong = judged(HELD, tmp_path)
    assert wrong == set()
    assert {name: each["verdict"] for name, each in found.items()} == dict.fromkeys(found, "held")
    impersonated = found["impersonate"]
    assert impersonated["distinct"] == impersonated["trials"] == 60
    gateway = layers(impersonated, "gateway")
    assert {"wrong-node", "bad-signature", "expired", "revoked"} <= gateway
    assert "service" in layers(impersonated, "ledger"), "a misused certificate: recorded as refused"
    assert layers(found["inside"], "gateway") <= {"repeat-final", "repeat-waiting", "counter"}
    assert "old-session" in layers(found["session"], "serial")
    assert {"bad-tag", "bad-suite"} <= layers(found["line-alter"], "serial")
    assert "unknown-voucher" in layers(found["sybil"], "gateway")
    assert found["flood"]["refused"], "which layer stopped how many"
    assert layers(found["takeover"], "broker") <= {"name-mismatch", "bad-login"}
    assert layers(found["hijack"], "broker") == {"publish-denied"}
    assert layers(found["listen"], "broker") == {"subscribe-denied"}
    assert "not-administrator" in layers(found["more"], "ledger")
    assert found["restarted"]["distinct"] > 5
    assert {"bad-signature", "bad-cose"} <= layers(found["alter"], "gateway")
    assert layers(found["downgrade"], "gateway") <= {"bad-cose", "bad-signature"}


@pytest.mark.soak
def test_replays_from_beyond_the_window_of_access_requests_are_held(tmp_path: Path) -> None:
    found, wrong = judged(BEYOND, tmp_path)
    assert wrong == set()
    assert (found["beyond"]["verdict"], found["beyond"]["successes"]) == ("held", 0)
    assert found["beyond"]["distinct"] > 30


@pytest.mark.soak
def test_a_network_that_checks_nothing_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Deployment.unit

    def unit(deployment: Deployment, node: Node) -> Unit:
        made = honest(deployment, node)
        if node.role == "board":
            return made
        python, _, module, *rest = made.argv
        return replace(made, argv=(python, str(UNCHECKED), module, *rest))

    monkeypatch.setattr(Deployment, "unit", unit)
    found, wrong = judged(BROKEN, tmp_path)
    assert wrong == {"validity", "no-unauthorised-commit"}
    assert {name: each["verdict"] for name, each in found.items()} == dict.fromkeys(found, "broken")
    assert found["alter"]["successes"] < found["alter"]["distinct"], "some are not well-formed"
    assert 0 < found["impersonate"]["successes"] < 20, "what is not even well-formed is refused"
