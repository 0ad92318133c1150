"""Every fault of links in one run of real processes: seen, undone, and nothing breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from inventory.load import load_lab
from testbed.campaign.kinds import kinds
from testbed.campaign.selectors import is_symbolic
from testbed.errors import ConfigurationError
from testbed.faults.partitions import apart, cut_off, cut_ways
from tests.testbed.test_byzantine_campaign import run

NETWORK = """
campaign: links
workload: {kind: enrol+data, rate: 8/s, arrivals: uniform, timeout: 5s}
phases: {warmup: 4s, fault: 19s, recovery: 1s}
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
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
  liveness: {first_commit_after_heal: 10s}
"""


def test_each_fault_of_links_is_seen_undone_and_breaks_nothing(tmp_path: Path) -> None:
    ended, summary = run(tmp_path, NETWORK)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert summary["verdict"] == "passed"
    assert summary["view_changes"] >= 1
    (of_run,) = [row["summary"] for row in summary["runs"]]
    assert {each["kind"] for each in of_run["faults"]} == {
        name for name in kinds() if name.startswith("net.")
    }
    steps = [(each["applied"], each["observed"], each["healed"]) for each in of_run["faults"]]
    assert steps == [(True, True, True)] * 11
    assert all(each["whole_ms"] is not None for each in of_run["faults"])


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
