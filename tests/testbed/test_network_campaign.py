"""Every fault of links, serial lines, boards, relays, gateway and broker in one run of real
processes.

Each is seen by somebody else than who injects it, each is undone, and nothing breaks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inventory.load import load_lab
from testbed.campaign.kinds import kinds
from testbed.campaign.selectors import is_symbolic
from testbed.errors import ConfigurationError
from testbed.faults.partitions import apart, cut_off, cut_ways
from testbed.systems.chain import CHAIN
from tests.testbed.labs import local_lab, run_campaign

CAMPAIGN = """
campaign: links
workload: {kind: enrol+data, rate: 12/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, fault: 26s, recovery: 2s}
faults:
  # All at once, on links of their own; orders to one process add up.
  - {id: delay, at: 0s, for: 3s, do: net.delay, from: backup(1), to: backup(2), by: 50ms}
  - {id: jitter, at: 0s, for: 3s, do: net.jitter, from: backup(2), to: backup(3), by: 20ms}
  - {id: loss, at: 0s, for: 3s, do: net.loss, from: backup(3), to: backup(1), share: 0.3}
  - {id: reorder, at: 0s, for: 3s, do: net.reorder, from: primary, to: backup(1), share: 0.2}
  - {id: duplicate, at: 0s, for: 3s, do: net.duplicate, from: primary, to: backup(2), share: 0.5}
  - {id: corrupt, at: 0s, for: 3s, do: net.corrupt, from: primary, to: backup(3), share: 0.2}
  - {id: rate, at: 0s, for: 3s, do: net.rate, from: gateway, to: primary, kbit: 500}
  - {id: phones, at: 0s, for: 3s, do: net.delay, from: mobile, to: broker, by: 50ms, both: true}
  # A primary that is late or cut off is replaced.
  - {id: slow, at: 3500ms, for: 2s, do: net.slow-link, by: 0.6*view_timeout}
  - {id: split, at: 6s, for: 9s, do: net.partition, shape: split, from: primary}
  - {id: flap, at: 15500ms, for: 3s, do: net.flap, from: backup(1), to: all, period: 600ms}
  # Meanwhile each board has a fault of its own, and its device spoils what it carries for others.
  - {id: noise, at: 0s, for: 6s, do: serial.noise, on: board(th01), share: 0.1}
  - {id: unplug, at: 0s, for: 3s, do: serial.unplug, on: board(th02)}
  - {id: baud, at: 0s, for: 6s, do: serial.wrong-baud, on: board(th03)}
  - {id: loop, at: 0s, for: 6s, do: board.boot-loop, on: board(th04)}
  - {id: drop, at: 0s, for: 2400ms, do: relay.drop, share: 0.5}
  - {id: alter, at: 2600ms, for: 2400ms, do: relay.alter, share: 0.5}
  - {id: late, at: 5200ms, for: 2400ms, do: relay.delay, by: 200ms}
  # Last: while no requests come, a partition is hard to see.
  - {id: destroy, at: 19s, for: 2s, do: gateway.destroy}
  - {id: broker, at: 22s, for: 3s, do: broker.kill}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
  liveness: {first_commit_after_heal: 10s}
"""


def test_each_is_seen_undone_and_whole_and_nothing_breaks(tmp_path: Path) -> None:
    ended, summary = run_campaign(tmp_path, CAMPAIGN, local_lab(mobiles=1, boards=4))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert summary["verdict"] == "passed"
    assert summary["view_changes"] >= 1
    (of_run,) = [row["summary"] for row in summary["runs"]]
    assert {each["kind"] for each in of_run["faults"]} >= {
        name for name in kinds() if name.startswith("net.")
    }
    steps = [(each["applied"], each["observed"], each["healed"]) for each in of_run["faults"]]
    assert steps == [(True, True, True)] * 20
    assert all(each["whole_ms"] is not None for each in of_run["faults"])
    seen = read_back(tmp_path)
    assert seen["noise"]["th01"] > 0, "bytes were spoilt"
    assert seen["baud"]["th03"] > seen["noise"]["th01"], "all of them"
    assert seen["unplug"]["th02"] is True
    assert seen["loop"]["th04"] >= 2, "starts"
    assert seen["drop"]["messages"]["env1"] > 0
    assert seen["alter"]["refused"] > 0, "by the gateway"
    assert seen["late"]["messages"]["env1"] > 0
    assert seen["destroy"]["gw1-gateway"] > 0, "replicas lost their links"


def read_back(home: Path) -> dict[str, Any]:
    """What was seen of each event of the one run below `home`."""
    (log,) = home.glob("runs/*/run/0000-faults/raw/faults.jsonl")
    steps = map(json.loads, log.read_text().splitlines())
    return {step["event"]: step["read_back"] for step in steps if step["step"] == "observed"}


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


# --- who counts as faulty -----------------------------------------------------------------------

FOUR = ("r1", "r2", "r3", "r4")
SEVEN = (*FOUR, "r5", "r6", "r7")


@pytest.mark.parametrize(
    ("shape", "everyone", "from_", "to", "faulty"),
    [
        ("one-way", FOUR, ("r1",), ("r2", "r3"), {"r1"}),
        ("two-way", FOUR, ("r1", "r2"), ("r3",), {"r3"}),
        ("split", FOUR, ("r4",), (), {"r4"}),
        ("split", SEVEN, SEVEN[:2], (), {"r1", "r2"}),
        ("split", SEVEN, SEVEN[:5], (), {"r6", "r7"}),
        ("bridge", SEVEN, ("r7",), (), {"r1", "r2", "r3"}),
        ("ring", FOUR, (), (), {"r1", "r2"}),
    ],
)
def test_faulty_is_the_side_without_a_quorum(
    shape: str,
    everyone: tuple[str, ...],
    from_: tuple[str, ...],
    to: tuple[str, ...],
    faulty: set[str],
) -> None:
    ways = cut_ways(shape, everyone, from_, to)  # type: ignore[arg-type]
    assert set(cut_off(ways)) == faulty
    left = [name for name in everyone if name not in faulty]
    assert not [way for way in ways if way[0] in left and way[1] in left]


def test_only_one_way_is_cut_one_way() -> None:
    assert cut_ways("one-way", FOUR, ("r1",), ("r1", "r2")) == (("r1", "r2"),)
    assert set(cut_ways("two-way", FOUR, ("r1",), ("r2",))) == {("r1", "r2"), ("r2", "r1")}
    assert ("r1", "r2") not in cut_ways("ring", FOUR, (), ())
    assert ("r1", "r3") in cut_ways("ring", FOUR, (), ())


@pytest.mark.parametrize(
    ("shape", "given"), [("ring", ["from"]), ("split", []), ("one-way", ["to"])]
)
def test_a_partition_takes_the_selectors_of_its_shape(shape: str, given: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=f"shape {shape} takes"):
        apart(shape, given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "params", "counts"),
    [
        ("net.delay", {"by_ms": 100}, False),
        ("net.delay", {"by_ms": 600}, True),
        ("net.loss", {"share": 0.1}, False),
        ("net.loss", {"share": 0.6}, True),
        ("net.rate", {"kbit": 1000}, False),
        ("net.rate", {"kbit": 8}, True),
        ("net.duplicate", {"share": 1.0}, False),
        ("net.flap", {"period_ms": 500}, True),
    ],
)
def test_a_link_as_bad_as_a_cut_one_makes_a_replica_faulty(
    kind: str, params: dict[str, float], counts: bool
) -> None:
    lab = load_lab()
    targets = {"from": ("primary",), "to": tuple(lab.replicas())}
    impaired = kinds()[kind].impairs(lab, targets, {**params, "both": True})
    assert impaired == (("primary",) if counts else ())
    assert all(map(is_symbolic, impaired))


def test_devices_and_their_broker_make_no_replica_faulty() -> None:
    lab = load_lab()
    targets = {"from": ("phones-1",), "to": ("gw1-broker",)}
    assert kinds()["net.flap"].impairs(lab, targets, {"period_ms": 500}) == ()
