"""Faults of serial lines, boards, relays, gateway and broker in one run of real processes.

Each is seen by somebody else than who injects it, each is undone, and nothing breaks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inventory.load import load_lab
from testbed.campaign.kinds import kinds
from testbed.systems.chain import CHAIN
from tests.testbed.test_byzantine_campaign import LAB, run

FOUR_BOARDS = (
    LAB
    + """
boards:
  th01: {host: env1, firmware: {board: unix}}
  th02: {host: env1, firmware: {board: unix}}
  th03: {host: env1, firmware: {board: unix}}
  th04: {host: env1, firmware: {board: unix}}
"""
)
CAMPAIGN = """
campaign: lines
workload: {kind: enrol+data, rate: 12/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, fault: 15s, recovery: 2s}
faults:
  # Each board has a fault of its own, while their device spoils what it carries for others.
  - {id: noise, at: 0s, for: 6s, do: serial.noise, on: board(th01), share: 0.1}
  - {id: unplug, at: 0s, for: 3s, do: serial.unplug, on: board(th02)}
  - {id: baud, at: 0s, for: 6s, do: serial.wrong-baud, on: board(th03)}
  - {id: loop, at: 0s, for: 6s, do: board.boot-loop, on: board(th04)}
  - {id: drop, at: 0s, for: 2400ms, do: relay.drop, share: 0.5}
  - {id: alter, at: 2600ms, for: 2400ms, do: relay.alter, share: 0.5}
  - {id: late, at: 5200ms, for: 2400ms, do: relay.delay, by: 200ms}
  - {id: destroy, at: 8s, for: 2s, do: gateway.destroy}
  - {id: broker, at: 12s, for: 3s, do: broker.kill}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Of the one run that all tests here look at, and its summary."""
    home = tmp_path_factory.mktemp("lines")
    ended, summary = run(home, CAMPAIGN, FOUR_BOARDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (found,) = (home / "runs").iterdir()
    return found, summary


@pytest.fixture(scope="module")
def seen(bundle: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """What was read back of each event."""
    lines = (bundle[0] / "run/0000-faults/raw/faults.jsonl").read_text().splitlines()
    steps = [step for step in map(json.loads, lines) if step["step"] == "observed"]
    return {step["event"]: step["read_back"] for step in steps}


def test_each_is_seen_undone_and_whole_and_nothing_breaks(
    bundle: tuple[Path, dict[str, Any]],
) -> None:
    _, summary = bundle
    assert summary["verdict"] == "passed"
    (of_run,) = [row["summary"] for row in summary["runs"]]
    steps = [(each["applied"], each["observed"], each["healed"]) for each in of_run["faults"]]
    assert steps == [(True, True, True)] * 9
    assert all(each["whole_ms"] is not None for each in of_run["faults"])


def test_what_was_seen_is_read_back(seen: dict[str, Any]) -> None:
    assert seen["noise"]["th01"] > 0, "bytes were spoilt"
    assert seen["baud"]["th03"] > seen["noise"]["th01"], "all of them"
    assert seen["unplug"]["th02"] is True
    assert seen["loop"]["th04"] >= 2, "starts"
    assert seen["drop"]["messages"]["env1"] > 0
    assert seen["alter"]["refused"] > 0, "by the gateway"
    assert seen["late"]["messages"]["env1"] > 0
    assert seen["destroy"]["gw1-gateway"] > 0, "replicas lost their links"


@pytest.mark.parametrize(
    ("kind", "mechanism", "why"),
    [
        ("serial.unplug", "usb", ""),
        ("serial.wrong-baud", "termios", ""),
        ("serial.noise", "", "nothing in a real cable could spoil it"),
        ("board.boot-loop", "", "DTR resets only boards with line: {reset_on_open: true}"),
        ("relay.alter", "switch", ""),
        ("gateway.destroy", "signal", ""),
    ],
)
def test_real_boards_have_another_way_or_a_reason(kind: str, mechanism: str, why: str) -> None:
    lab = load_lab(Path("inventory/first-lab.yaml"))
    chosen, reasons = kinds()[kind].choose(lab, tuple(lab.active), CHAIN)
    assert (chosen.name if chosen else "") == mechanism
    assert why in reasons
