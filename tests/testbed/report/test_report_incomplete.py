"""A run that lacks files or was cut short is invalid, never failed and never passed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from nodes.replica.ledger_copy import copy_ledger
from testbed.bundle import RunFolder
from tests.chain.world import World
from tests.testbed.bundles import judged, store, write_lines
from tests.testbed.report.support import change, whole_of


def test_a_run_that_was_cut_short_is_invalid_not_failed(run: RunFolder) -> None:
    change(run, "run", lambda found: found[:3])
    change(run, "faults", lambda found: found[:2])
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert "cut short" in summary.notes[0]


def test_a_run_without_ledgers_is_invalid(run: RunFolder) -> None:
    for path in run.ledgers:
        path.unlink()
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert summary.ledger_problem == "no replica's ledger was collected"


def test_copies_of_one_ledger_are_one_ledger(run: RunFolder) -> None:
    first, *others = run.ledgers
    for path in others:
        shutil.copy(first, path)
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert "not collected: 3 of 4 ledgers;" in summary.notes[0]


def test_a_run_is_not_judged_by_some_of_its_ledgers(run: RunFolder) -> None:
    """The fork may stand in the one that is not there."""
    run.ledgers[2].unlink()
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert "not collected: 1 of 4 ledgers;" in summary.notes[0]


def test_a_device_without_a_log_may_hold_receipts_that_nobody_checked(run: RunFolder) -> None:
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    (run.raw / f"{name}.jsonl").unlink()
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert f"not collected: the log of {name};" in summary.notes[0]


def test_replicas_without_logs_are_no_proof_that_nothing_was_committed(run: RunFolder) -> None:
    """When a block was executed only they say: without them nothing is known of recovery."""
    for name in ("r1", "r2", "r3", "r4"):
        (run.raw / f"{name}.jsonl").unlink()
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert "first-commit-after-heal" not in {each.name for each in summary.properties}
    assert "not collected: the log of r1;" in summary.notes[0]


def test_an_empty_log_is_as_good_as_none(run: RunFolder) -> None:
    """A process that ran wrote at least that it started."""
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    write_lines(run.raw / f"{name}.jsonl", [])
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert f"not collected: the log of {name};" in summary.notes[0]


def test_a_run_in_which_no_device_got_anywhere_is_invalid(run: RunFolder, tmp_path: Path) -> None:
    """Replicas that agree on empty blocks prove little."""
    world = World()
    for _ in range(120):
        world.block(after_us=250_000)
    for replica, path in enumerate(run.ledgers):
        copy_ledger(store(world, tmp_path / path.name, replica, world.blocks), path)
    for path in (*run.raw.glob("env*.jsonl"), *run.raw.glob("phones*.jsonl")):
        write_lines(path, [])
    schedule = json.loads((run.bundle.path / "inputs/schedule.json").read_text())
    (trial,) = schedule["trials"]
    trial["events"] = [each for each in trial["events"] if each["category"] == "fault"]
    (run.bundle.path / "inputs/schedule.json").write_text(json.dumps(schedule))
    summary = judged(run)
    assert all(each.held for each in summary.properties)
    assert summary.verdict == "invalid"
    assert "nothing that a device asked for took effect: nothing was put to the test" in (
        summary.notes
    )


def test_a_run_is_not_judged_by_inputs_that_are_not_its_own(run: RunFolder) -> None:
    """Without its fault in the schedule, a fault that nobody saw would be forgotten; with other
    expectations in the campaign, so would they."""
    change(run, "faults", lambda found: [e for e in found if e["step"] != "observed"])
    schedule = json.loads((run.bundle.path / "inputs/schedule.json").read_text())
    (trial,) = schedule["trials"]
    trial["events"] = [each for each in trial["events"] if each["category"] != "fault"]
    (run.bundle.path / "inputs/schedule.json").write_text(json.dumps(schedule))
    campaign = (run.bundle.path / "inputs/campaign.yaml").read_bytes()
    (run.bundle.path / "inputs/campaign.yaml").write_bytes(campaign.replace(b"0.2", b"0.9"))
    summary = whole_of(run)
    assert summary.verdict == "invalid"
    for name in ("schedule.json", "campaign.yaml"):
        assert f"inputs/{name} is not what these runs were made from" in summary.notes
