"""A run, from raw files to verdict and report: what went wrong is said, nothing is lost."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import msgspec
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from chain.block import Block
from nodes.replica.ledger_copy import copy_ledger
from nodes.replica.ledger_file import block_of, encode_records
from testbed import cli
from testbed.bundle import Bundle, RunFolder
from testbed.campaign.injection import Judgement
from testbed.campaign.kinds import attack_kinds
from testbed.checks.conditions import ClockLine, ConditionLine
from testbed.checks.evidence import Evidence
from testbed.checks.ledger import verify_ledgers
from testbed.errors import ConfigurationError
from testbed.report.conclude import conclude
from testbed.report.derive import derive_run, rebuild
from testbed.report.judging import Judging
from testbed.report.junit import junit
from testbed.report.measure import of_kind, operations
from testbed.report.over_runs import over_runs
from testbed.report.results import replay_command, results
from testbed.report.run_plots import draw_run
from testbed.report.style import Plot
from testbed.report.summary import RunSummary, Summary
from testbed.report.table import render
from testbed.report.where import where_of
from tests.chain.world import World
from tests.testbed.bundles import START_NS, Story, edit, lines, reschedule, store, write_lines
from tests.testbed.test_conditions import FINE, LIMITS

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story"))


@pytest.fixture
def run(story: Story, tmp_path: Path) -> RunFolder:
    return story.copy(tmp_path)


def summary_of(run: RunFolder) -> RunSummary:
    """The verdicts, without drawing."""
    evidence = Evidence(run)
    return conclude(evidence, verify_ledgers(evidence.ledgers, evidence.genesis))


def whole_of(run: RunFolder) -> Summary:
    """What the bundle says, without drawing."""
    run.write_json("summary.json", msgspec.to_builtins(summary_of(run)))
    return over_runs(run.bundle)


def change(run: RunFolder, log: str, by: Callable[[Lines], Lines]) -> None:
    path = run.raw / f"{log}.jsonl"
    write_lines(path, by(lines(path)))


def held(summary: RunSummary, name: str) -> tuple[bool | None, str]:
    found = next(each for each in summary.properties if each.name == name)
    return found.held, found.detail


# --- verdicts -----------------------------------------------------------------------------------


def test_a_good_run_passes_with_everything_counted(run: RunFolder, story: Story) -> None:
    summary = summary_of(run)
    assert summary.verdict == "passed", summary
    assert summary.notes == ()
    assert (summary.devices_admitted, summary.devices_expected) == (5, 5)
    assert summary.blocks == summary.blocks_proven == len(story.world.blocks)
    assert summary.records == len(story.requests)
    assert summary.ledger_verified
    assert summary.view_changes == 1
    latency = summary.latency_ms
    assert (latency.admission.n, latency.admission.p50) == (5, 40.0)
    assert latency.consensus.p99 == 7.0
    assert latency.data.n == summary.data_records
    (fault,) = summary.faults
    assert fault.applied
    assert fault.observed
    assert fault.healed
    assert fault.recovery_ms == 8.0
    assert fault.whole_ms == 700.0
    (attack,) = summary.attacks
    assert attack.verdict == "held"
    assert attack.trials == attack.observed > attack.distinct > 20
    assert attack.successes == 0
    assert attack.upper95 == pytest.approx(1 - 0.05 ** (1 / attack.distinct), abs=1e-6)
    assert set(attack.refused) == {"gateway:repeat-final", "serial:old"}
    # Each attempt had 1,000 frames on a board's line refused, told in three events.
    tried = [each for line in Evidence(run).attacks for each in line.trials]
    on_lines = [each for each in tried if each.startswith("serial/")]
    assert attack.refused["serial:old"] == 1_000 * len(on_lines) > 0


def test_a_replay_that_was_recorded_again_is_judged_broken(run: RunFolder) -> None:
    """By the ledgers, whatever gateway and replicas said of it."""
    evidence = Evidence(run)
    replayed = evidence.attacks[0].trials[0].partition("@")[0]
    entry = next(e for e in evidence.longest.entries if e.statement.request.hex() == replayed)
    for path in run.ledgers:
        duplicate(path, entry.height, entry.index, into=100)
    summary = summary_of(run)
    (attack,) = summary.attacks
    assert (attack.verdict, attack.successes) == ("broken", 1)
    assert summary.verdict == "failed"
    assert not held(summary, "exactly-once")[0]
    assert not summary.ledger_verified
    assert summary.ledger_problem is not None
    assert "height 100" in summary.ledger_problem


def duplicate(path: Path, height: int, index: int, into: int) -> None:
    """Adds a record of one block to another, in the database."""
    blocks = {each: stored(path, each) for each in (height, into)}
    records = (*blocks[into].records, blocks[height].records[index])
    edit(path, into, mend_sum=True, records=encode_records(Block(blocks[into].head, records)))


def stored(path: Path, height: int) -> Block:
    with sqlite3.connect(path) as database:
        row = database.execute(
            "SELECT head, records FROM blocks WHERE height = ?", (height,)
        ).fetchone()
    database.close()
    return block_of(*row)


@pytest.mark.parametrize("step", ["applied", "observed", "healed"])
def test_a_fault_that_was_not_seen_makes_the_run_invalid(run: RunFolder, step: str) -> None:
    change(run, "faults", lambda found: [each for each in found if each["step"] != step])
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert not getattr(summary.faults[0], step)
    assert any("kill-primary" in note for note in summary.notes)


def test_a_fault_that_was_looked_for_and_not_seen_is_no_better(run: RunFolder) -> None:
    change(run, "faults", lambda found: [each | {"seen": False} for each in found])
    assert summary_of(run).verdict == "invalid"


def test_a_target_that_did_not_come_back_is_told(run: RunFolder) -> None:
    """Others may go on well without it: the verdict is theirs, and the reader's to weigh."""
    change(run, "faults", lambda found: [each | {"whole": False} for each in found])
    summary = summary_of(run)
    assert summary.faults[0].whole_ms is None
    (note,) = summary.notes
    assert note == "fault kill-primary: r1 was not found whole again after healing"


def no_arrivals(run: RunFolder) -> None:
    """The attacker's messages never reached anybody."""
    change(run, "gateway", lambda found: [e for e in found if e["outcome"] == "accepted"])
    for path in (run.raw / "serial").iterdir():
        write_lines(path, lines(path)[:1])


def never_tried(run: RunFolder) -> None:
    write_lines(run.raw / "attacks.jsonl", [])


def one_attempt_unseen(run: RunFolder) -> None:
    extra = {"t": 0, "id": "replay", "event": "replay.1", "trials": [f"{'00' * 32}#1"]}
    change(run, "attacks", lambda found: [*found, extra])


def one_attempt_untold(run: RunFolder) -> None:
    """Its line was torn, or it was never made."""
    change(run, "attacks", lambda found: found[1:])


def one_attempt_had_nothing_to_send(run: RunFolder) -> None:
    change(run, "attacks", lambda found: [found[0] | {"trials": []}, *found[1:]])


@pytest.mark.parametrize(
    "spoil",
    [
        no_arrivals,
        never_tried,
        one_attempt_unseen,
        one_attempt_untold,
        one_attempt_had_nothing_to_send,
    ],
)
def test_an_attack_that_was_not_seen_to_arrive_is_invalid_never_held(
    run: RunFolder, spoil: Callable[[RunFolder], None]
) -> None:
    spoil(run)
    summary = summary_of(run)
    assert summary.attacks[0].verdict == "invalid"
    assert summary.verdict == "invalid"


def test_arrivals_before_the_attempt_do_not_count(run: RunFolder) -> None:
    """What the gateway saw before is the device's own message."""
    change(run, "gateway", lambda found: [e | {"t": found[0]["t"]} for e in found])
    assert summary_of(run).attacks[0].observed == 6  # the frames on the serial lines


def test_a_receipt_for_what_is_on_no_chain_is_a_lost_record(run: RunFolder) -> None:
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    change(
        run,
        name,
        lambda found: [*found, found[-1] | {"event": "admitted", "id": "00" * 32}],
    )
    summary = summary_of(run)
    assert summary.verdict == "failed"
    assert f"{name} holds a receipt" in held(summary, "durability")[1]


def test_no_commit_after_healing_is_degraded_not_failed(run: RunFolder) -> None:
    late = 10**12
    change(
        run,
        "faults",
        lambda found: [e | {"t": e["t"] + late * (e["step"] == "healed")} for e in found],
    )
    summary = summary_of(run)
    assert summary.verdict == "degraded"
    assert held(summary, "first-commit-after-heal") == (False, "never, at most 10000 ms wanted")
    assert summary.faults[0].recovery_ms is None


@pytest.mark.parametrize(
    ("bound_ms", "step_ms", "state", "held_now"),
    [
        (3.0, 0.0, "known", True),
        (20.0, 0.0, "unresolvable", True),
        (3.0, 900.0, "unknown", None),
    ],
)
def test_recovery_in_a_lab_is_as_exact_as_its_clocks(
    run: RunFolder, bound_ms: float, step_ms: float, state: str, held_now: bool | None
) -> None:
    """The story's processes run on one machine with the boot "b", whose clock is right."""
    seen = msgspec.structs.replace(FINE, boot="b", wall_minus_monotonic_ns=0)
    limits = msgspec.structs.replace(LIMITS, clock_error_ms_max=1000.0)
    clocks, looks = [], []
    for t, offset_ms in ((START_NS, 0.0), (START_NS + 60_000_000_000, -step_ms)):
        clocks.append(
            ClockLine(
                t=t, host="pi01", offset_ms=offset_ms, bound_ms=bound_ms, wall_minus_monotonic_ns=0
            )
        )
        looks.append(ConditionLine(t=t, host="pi01", limits=limits, seen=seen))
    for name, found in (("clock", clocks), ("conditions", looks)):
        write_lines(run.raw / f"{name}.jsonl", [msgspec.to_builtins(line) for line in found])
    summary = summary_of(run)
    (fault,) = summary.faults
    assert fault.recovery_state == state
    assert held(summary, "first-commit-after-heal")[0] is held_now
    if state == "unknown":
        assert fault.recovery_ms is None
    else:
        assert fault.recovery_ms == pytest.approx(8.0, abs=0.01)
        assert fault.recovery_bound_ms == pytest.approx(bound_ms, abs=0.01)


def test_a_run_that_was_cut_short_is_invalid_not_failed(run: RunFolder) -> None:
    change(run, "run", lambda found: found[:3])
    change(run, "faults", lambda found: found[:2])
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert "cut short" in summary.notes[0]


def test_a_run_without_ledgers_is_invalid(run: RunFolder) -> None:
    for path in run.ledgers:
        path.unlink()
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert summary.ledger_problem == "no replica's ledger was collected"


def test_copies_of_one_ledger_are_one_ledger(run: RunFolder) -> None:
    first, *others = run.ledgers
    for path in others:
        shutil.copy(first, path)
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert "3 of 4 ledgers was not collected" in summary.notes[0]


def test_a_run_is_not_judged_by_some_of_its_ledgers(run: RunFolder) -> None:
    """The fork may stand in the one that is not there."""
    run.ledgers[2].unlink()
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert "1 of 4 ledgers was not collected" in summary.notes[0]


def test_a_device_without_a_log_may_hold_receipts_that_nobody_checked(run: RunFolder) -> None:
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    (run.raw / f"{name}.jsonl").unlink()
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert f"the log of {name} was not collected" in summary.notes[0]


def test_replicas_without_logs_are_no_proof_that_nothing_was_committed(run: RunFolder) -> None:
    """When a block was executed only they say: without them nothing is known of recovery."""
    for name in ("r1", "r2", "r3", "r4"):
        (run.raw / f"{name}.jsonl").unlink()
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert "first-commit-after-heal" not in {each.name for each in summary.properties}
    assert "the log of r1 was not collected" in summary.notes[0]


def test_an_empty_log_is_as_good_as_none(run: RunFolder) -> None:
    """A process that ran wrote at least that it started."""
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    write_lines(run.raw / f"{name}.jsonl", [])
    summary = summary_of(run)
    assert summary.verdict == "invalid"
    assert f"the log of {name} was not collected" in summary.notes[0]


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
    summary = summary_of(run)
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


def test_a_damaged_ledger_fails_the_run_and_is_named(run: RunFolder) -> None:
    edit(run.ledgers[2], 40, mend_sum=True, signature=bytes(64))
    summary = summary_of(run)
    assert summary.verdict == "failed"
    assert summary.ledger_problem is not None
    assert summary.ledger_problem.startswith("r3.sqlite: height 40, signature")


def made_to_lie(run: RunFolder) -> None:
    """As if r1 had been two-faced, not killed."""

    def lie(schedule: dict[str, Any]) -> None:
        for event in schedule["trials"][0]["events"]:
            event["lies"] = True

    reschedule(run, lie)


def test_the_ledger_of_a_replica_that_lied_to_the_end_is_not_judged(run: RunFolder) -> None:
    """What the campaign broke on purpose proves nothing against the scheme."""
    made_to_lie(run)
    change(run, "faults", lambda found: [e for e in found if e["step"] != "healed"])
    edit(run.ledgers[0], 40, mend_sum=True, head=bytes(168))
    summary = summary_of(run)
    assert held(summary, "agreement") == (True, "heights: r2 109, r3 109, r4 109")
    assert summary.ledger_verified
    assert "r1 lied to the end: its ledger is not judged" in summary.notes


def test_a_replica_that_was_healed_is_judged_last_but_like_the_others(run: RunFolder) -> None:
    """Only what it sent was forged; else a campaign in which each lied once would prove nothing."""
    made_to_lie(run)
    summary = summary_of(run)
    assert summary.verdict == "passed"
    assert held(summary, "agreement") == (True, "heights: r2 109, r3 109, r4 109, r1 109")
    assert summary.notes[0].startswith("r1 lied for a while")
    edit(run.ledgers[0], 40, mend_sum=True, head=bytes(168))
    assert summary_of(run).verdict == "failed"


def test_a_device_that_asks_again_does_not_stand_in_for_a_replay(run: RunFolder) -> None:
    """An arrival counts for a trial only over the relay that the attacker spoke as."""

    def by_another(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [e | {"relay": "honest"} if e.get("relay") == "rogue" else e for e in found]

    change(run, "gateway", by_another)
    (attack,) = summary_of(run).attacks
    assert 0 < attack.observed < attack.trials  # the frames on serial lines


@pytest.mark.parametrize(
    ("name", "event", "field", "value"),
    [("r2", "block", "height", 2**64), ("phones-1", "admitted", "latency_ms", 1e308)],
)
def test_numbers_that_no_process_writes_are_no_lines(
    run: RunFolder, name: str, event: str, field: str, value: float
) -> None:
    """A node that somebody else has taken over must not keep the others from being judged."""

    def forge(found: Lines) -> Lines:
        one = next(each for each in found if each["event"] == event)
        return [*found, one | {field: value}]

    change(run, name, forge)
    assert derive_run(run).summary.notes == (f"raw/{name}.jsonl: 1 torn line left out",)


LOST = "ledger lost, no votes are sent"
STUCK = f"{LOST}; 3 of 4 votes are needed: this network cannot go on"


@pytest.mark.parametrize(
    ("lost", "again", "says"),
    [
        (["r3"], [], f"r3: {LOST}"),
        (["r3", "r4"], [], f"r3 and r4: {STUCK}"),
        (["r3", "r4"], ["r4"], f"r3: {LOST}"),
        (["r3"], ["r3"], None),
    ],
)
def test_who_lost_its_ledger_and_whether_the_network_can_go_on_is_said(
    run: RunFolder, lost: list[str], again: list[str], says: str | None
) -> None:
    for name in lost:
        events = ["store-missing" if name == "r3" else "store-damaged"]
        events += ["voting-again"] * (name in again)
        path = run.raw / f"{name}.jsonl"
        last = lines(path)[-1]
        added = [last | {"event": e, "t": last["t"] + at} for at, e in enumerate(events, 1)]
        write_lines(path, [*lines(path), *added])
    assert summary_of(run).notes == ((says,) if says else ())


def test_torn_lines_are_told_and_change_no_verdict(run: RunFolder) -> None:
    with (run.raw / "r2.jsonl").open("a") as stream:
        stream.write('{"t": 12')
    summary = summary_of(run)
    assert summary.verdict == "passed"
    assert summary.notes == ("raw/r2.jsonl: 1 torn line left out",)


def test_unanswered_operations_are_censored_and_late_ones_are_not(run: RunFolder) -> None:
    """A late answer has its true latency; a missing one is counted and is in no quantile."""
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    before = summary_of(run).latency_ms

    def spoil(found: Lines) -> Lines:
        data = [each for each in found if each["event"] == "data"]
        late = [
            {k: v for k, v in each.items() if k != "id"} | {"event": "late"} for each in data[:2]
        ]
        lost, slow = data[0], data[1] | {"latency_ms": 6000.0}
        kept = [e for e in found if e not in (lost, data[1]) and e["event"] != "admitted"]
        return [*kept, *late, slow]

    change(run, name, spoil)
    after = summary_of(run).latency_ms
    assert (after.data.n, after.data.censored) == (before.data.n - 1, 1)
    assert after.data.max == 6000.0
    assert (after.admission.n, after.admission.censored) == (4, 1)


def test_unanswered_readings_are_in_the_quantiles_of_an_injection(run: RunFolder) -> None:
    """Half of what was sent under attack never came back: the rest does not stand for all."""
    before = Evidence(run)
    (name,) = {each.phase for each in before.trial.events if each.category == "attack"}
    phase = next(each for each in before.schedule.phases if each.name == name)
    span_ns = range(START_NS + phase.start_ms * 10**6, START_NS + phase.end_ms * 10**6)

    def lose_half(found: Lines) -> Lines:
        data = [e for e in found if e.get("intended_ns", 0) in span_ns]
        lost = data[::2] + data[1::4]
        return [e | {"event": "late"} if e in lost else e for e in found]

    for path in (*run.raw.glob("phones*.jsonl"), *run.raw.glob("env*.jsonl")):
        change(run, path.stem, lose_half)
    evidence = Evidence(run)
    summary = summary_of(run)
    table = results(evidence, summary, operations(evidence))
    row = next(
        dict(zip(table.columns, cells, strict=True)) for cells in table.rows if "replay" in cells
    )
    assert (row["p50_base_ms"], row["p99_base_ms"]) == (40.0, 40.0)
    assert (row["p50_attack_ms"], row["p99_attack_ms"], row["max_attack_ms"]) == (None, None, None)
    assert 0 < float(str(row["goodput_attack_per_s"])) < float(str(row["goodput_base_per_s"]))


def test_what_a_campaign_derives_as_it_goes_is_what_a_report_derives(run: RunFolder) -> None:
    """Figures of an only run are drawn once then. PDFs of an earlier report would be old."""
    rebuild(run.bundle, pdf=True)
    of_paper = {name for name in derived_files(run.bundle) if name.endswith(".pdf")}
    assert len(of_paper) == 3
    judging = Judging(run.bundle)
    assert judging.run(run) is None
    judging.whole()
    as_it_goes = derived_files(run.bundle)
    assert not of_paper & as_it_goes.keys()
    rebuild(run.bundle)
    assert derived_files(run.bundle) == as_it_goes


def test_a_flipped_bit_in_the_time_of_a_head_is_reported_with_all_its_tables(
    run: RunFolder, story: Story
) -> None:
    """Times on the chain are unsigned: the highest bit makes one that no signed number holds."""
    head = story.world.blocks[39].head
    edit(run.ledgers[0], 40, mend_sum=True, head=head[:52] + b"\x80" + head[53:])
    assert derive_run(run).summary.verdict == "failed"
    assert run.is_derived


def test_what_is_no_bundle_is_a_clear_error(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(ConfigurationError, match=r"manifest\.json"):
        rebuild(Bundle(tmp_path))
    (run.path / "genesis.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="bad-genesis"):
        derive_run(run)


# --- attacks are judged by their own kind ---------------------------------------------------------


def arrivals_are_successes(evidence: Evidence, attack: str) -> Judgement:
    """As of an impersonation: one record is a success already, not the second one."""
    trials = [trial for line in evidence.attacks if line.id == attack for trial in line.trials]
    return Judgement(len(trials), len(trials), len(set(trials)), len(trials), {})


def attacked_by(run: RunFolder, kind: str) -> None:
    """As if the attack of the schedule had been of another kind."""

    def change(schedule: dict[str, Any]) -> None:
        for event in schedule["trials"][0]["events"]:
            if event["kind"] == "device.replay":
                event["kind"] = kind

    reschedule(run, change)


def test_what_counts_as_a_success_is_the_kinds_own(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = attack_kinds()
    mine = dataclasses.replace(
        known["device.replay"], name="device.pretend", judge=arrivals_are_successes
    )
    monkeypatch.setattr("testbed.campaign.kinds._registry", {**known, mine.name: mine})
    attacked_by(run, "device.pretend")
    summary = summary_of(run)
    (attack,) = summary.attacks
    assert (attack.kind, attack.verdict) == ("device.pretend", "broken")
    assert attack.successes == attack.trials > 20
    assert summary.verdict == "failed"


def test_an_attack_of_a_kind_that_is_gone_is_not_judged_and_the_rest_is(run: RunFolder) -> None:
    attacked_by(run, "device.forgotten")
    summary = summary_of(run)
    (attack,) = summary.attacks
    assert attack.verdict == "invalid"
    assert "attack replay: this version has no kind device.forgotten to judge it by" in (
        summary.notes
    )
    assert all(each.held for each in summary.properties)
    assert summary.faults[0].observed


@pytest.mark.parametrize("params", [{}, {"window": {"a": []}}, {"window": "x" * 10**6}])
def test_an_attack_whose_parameters_no_campaign_could_say_is_not_judged(
    run: RunFolder, params: dict[str, Any]
) -> None:
    def change(schedule: dict[str, Any]) -> None:
        for event in schedule["trials"][0]["events"]:
            if event["kind"] == "device.replay":
                event["params"] = params

    reschedule(run, change)
    summary = summary_of(run)
    assert summary.attacks[0].verdict == "invalid"
    assert any(note.startswith("attack replay: device.replay: ") for note in summary.notes)
    assert summary.faults[0].observed


def test_judging_imports_nothing_that_carries_an_attack_or_a_fault_out(run: RunFolder) -> None:
    """A report is made anywhere, also from a bundle that somebody sent."""
    program = (
        "import sys; from testbed import cli; code = cli.main(['report', sys.argv[1]]);"
        "wrong = [m for m in sys.modules if m.startswith(('testbed.faults', 'testbed.hosts.ssh',"
        " 'testbed.provision.deployment', 'testbed.attacker.attacker', 'testbed.attacker.puppet',"
        " 'testbed.attacks.replay.attack'))];"
        "sys.exit(code or wrong or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run.bundle.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- the derived files ----------------------------------------------------------------------------


def derived_files(bundle: Bundle) -> dict[str, bytes]:
    """All that is derived, in the bundle and in its runs."""
    paths = [path for path in bundle.path.rglob("*") if path.is_file()]
    apart = {"raw", "inputs", "manifest.json", "env", "genesis.json"}
    found = {str(path.relative_to(bundle.path)): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not set(Path(name).parts) & apart}


class Page(HTMLParser):
    """Every address that the page would fetch, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.words = ""
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_report_is_rebuilt_byte_by_byte_and_leaves_raw_alone(run: RunFolder) -> None:
    raw = {path: path.read_bytes() for path in run.raw.rglob("*") if path.is_file()}
    summary = rebuild(run.bundle, pdf=True)
    first = derived_files(run.bundle)
    tables = ("blocks", "executions", "operations", "phases", "faults", "results")
    plots = ("timeline", "latency", "phases")
    both = ("csv", "parquet")
    of_run = {f"derived/{name}.{kind}" for name in tables for kind in both}
    of_run |= {f"plots/{name}.{kind}" for name in plots for kind in ("svg", "pdf")}
    wanted = {f"{run.entry.path}/{name}" for name in (*of_run, "report.html", "summary.json")}
    wanted |= {f"derived/{name}.{kind}" for name in ("runs", "results") for kind in both}
    wanted |= {"report.html", "junit.xml", "summary.json"}
    assert first.keys() == wanted | {"README.md", "ro-crate-metadata.json", "SHA256SUMS"}
    for name in first:
        (run.bundle.path / name).unlink()
    rebuild(run.bundle, pdf=True)
    assert derived_files(run.bundle) == first
    assert {path: path.read_bytes() for path in run.raw.rglob("*") if path.is_file()} == raw

    # The summary reads back, and is what its schema says.
    read = msgspec.json.decode(first["summary.json"], type=Summary)
    assert read == summary
    jsonschema.validate(json.loads(first["summary.json"]), msgspec.json.schema(Summary))

    # The pages need nothing from anywhere, and say what they are.
    page = Page(first["report.html"].decode())
    of_the_run = Page(first[f"{run.entry.path}/report.html"].decode())
    other = f"{run.entry.path}/report.html"
    assert all(each.startswith("#") or each == other for each in page.addresses)
    assert all(each.startswith("#") or "report.html" in each for each in of_the_run.addresses)
    for each in (page, of_the_run):
        assert each.tags.count("svg") == 3
        for word in ("loopback: not a measurement of boards", "kill-primary", "passed", "--seed"):
            assert word in each.words

    # Tables agree with each other in both forms.
    for name in tables:
        rows = list(
            csv.DictReader(first[f"{run.entry.path}/derived/{name}.csv"].decode().split("\n"))
        )
        table = pq.read_table(run.path / f"derived/{name}.parquet")
        assert (len(rows), list(rows[0])) == (table.num_rows, table.column_names)
    assert pq.read_table(run.path / "derived/blocks.parquet").num_rows == summary.blocks

    of_run_suite, of_all = ET.fromstring(first["junit.xml"])
    for suite in (of_run_suite, of_all):
        assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert of_run_suite.get("tests") == str(len(summary.properties) + 3)


def drawn_of(evidence: Evidence) -> tuple[Plot, ...]:
    found = operations(evidence)
    return draw_run(evidence, found, where_of(evidence, found))


def test_figures_keep_their_colours_where_styles_are_forbidden(run: RunFolder) -> None:
    """CI servers show artifacts under a strict content security policy, as Jenkins does."""
    for name, _, svg in drawn_of(Evidence(run)):
        tree = ET.fromstring(svg)
        assert not [each for each in tree.iter() if "style" in each.attrib], name
        assert not [each for each in tree.iter() if each.tag.endswith("style")], name
        shapes = [each for each in tree.iter() if each.tag.endswith(("path", "use", "rect"))]
        assert any(each.get("fill", "none") != "none" for each in shapes)
        assert any("stroke-width" in each.attrib for each in tree.iter())
        assert tree.get("stroke-linejoin") == "round"


def test_names_in_junit_are_the_same_from_run_to_run(story: Story, tmp_path: Path) -> None:
    """A CI server follows a test case by its name."""
    found = []
    for number in range(2):
        run = story.copy(tmp_path / str(number))
        run.bundle.path.rename(tmp_path / f"2026112{number}T000000Z-quick-start-abcd")
        (run,) = Bundle(tmp_path / f"2026112{number}T000000Z-quick-start-abcd").runs
        manifest = run.bundle.manifest
        run.bundle.write_manifest(msgspec.structs.replace(manifest, run=run.bundle.name))
        top = ET.fromstring(junit(whole_of(run)))
        found.append([(each.tag, each.get("name"), each.get("classname")) for each in top.iter()])
    assert found[0] == found[1]


def test_the_boxes_of_a_phase_say_what_is_not_in_them(run: RunFolder) -> None:
    for path in (*run.raw.glob("phones*.jsonl"), *run.raw.glob("env*.jsonl")):
        change(
            run,
            path.stem,
            lambda found: [e | {"event": "late"} if e["event"] == "data" else e for e in found],
        )
    evidence = Evidence(run)
    drawn = {name: svg.decode() for name, _, svg in drawn_of(evidence)}
    for phase in evidence.schedule.phases:
        sent = of_kind(operations(evidence), "data", phase.name).censored
        assert not sent or f"(n = 0, {sent} unanswered)" in drawn["phases"]


def test_what_is_written_follows_no_link_of_a_bundle(run: RunFolder, tmp_path: Path) -> None:
    """Somebody who sends a bundle must not choose what a report of it is written over."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (run.path / ".summary.json.part").symlink_to(mine)
    (run.path / "report.html").symlink_to(mine)
    (run.bundle.path / "junit.xml").symlink_to(mine)
    rebuild(run.bundle)
    assert mine.read_text() == "precious"
    assert not (run.path / "summary.json").is_symlink()


def test_names_from_a_bundle_cannot_write_into_the_page(run: RunFolder) -> None:
    """An inventory may name things as it likes."""
    path = run.bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["exclusions"] = {"pi05": "<script>alert(1)</script>"}
    path.write_text(json.dumps(manifest))
    rebuild(run.bundle)
    page = Page((run.bundle.path / "report.html").read_text())
    assert "script" not in page.tags
    assert "<script>" in page.words


def test_junit_tells_failures_from_errors(run: RunFolder) -> None:
    """A property that failed is a failure; what could not be seen is an error."""
    change(run, "faults", lambda found: [e for e in found if e["step"] != "observed"])
    edit(run.ledgers[0], 40, mend_sum=True, signature=bytes(64))
    suite, _ = ET.fromstring(junit(whole_of(run)))
    tests = {each.get("name"): [child.tag for child in each] for each in suite}
    assert tests["validity"] == ["failure"]
    assert tests["kill-primary"] == ["error"]
    assert tests["replay"] == []


def test_junit_is_xml_whatever_a_host_answered(run: RunFolder) -> None:
    """Reasons quote what programs printed: colours of a terminal are no characters of XML."""
    run.bundle.update(0, state="failed", reason="\x1b[31mno\0 power\x1b[0m")
    suite, _ = ET.fromstring(junit(whole_of(run)))
    (error,) = suite.findall("testcase[@classname='run']/error")
    assert "no power" in re.sub("[^a-z ]", "", str(error.get("message")))


def test_the_command_that_runs_it_again_is_words_of_a_shell(run: RunFolder) -> None:
    argv = ("testbed", "run", "~/my lab/a.yaml", "-i", "~/$(reboot)/lab.yaml")
    told = msgspec.structs.replace(run.bundle.manifest, argv=argv)
    home = ["testbed", "run", "HOME/my lab/a.yaml", "-i", "HOME/$(reboot)/lab.yaml"]
    typed = replay_command(told)
    assert typed.count("~/") == 2
    assert " ~/" in typed, "not quoted, so that a shell knows whose home it is"
    assert shlex.split(typed.replace("~", "HOME"))[:5] == home


def test_the_table_on_the_terminal_has_what_people_look_for(run: RunFolder) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(whole_of(run), "runs/here"))
    text = console.export_text()
    for word in ("5 of 5", "passed", "admission", "kill-primary", "replay", "held", "runs/here"):
        assert word in text


# --- the command ----------------------------------------------------------------------------------


def test_report_rebuilds_and_answers_with_the_verdict(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(run.bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "passed"
    change(run, "run", lambda found: found[:3])
    assert cli.main(["report", str(run.bundle.path)]) == 3
    assert "cut short" in capsys.readouterr().out
    assert cli.main(["report", "nowhere"]) == 2


def test_report_names_the_figures_of_runs_not_those_of_attempts(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run.bundle.path / "attempts" / "0000-faults-1" / "plots"
    old.mkdir(parents=True)
    (old / "latency.pdf").write_bytes(b"")
    assert cli.main(["report", str(run.bundle.path), "--pdf"]) == 0
    said = capsys.readouterr().err
    assert f"figures: {run.path}/plots/*.pdf" in said
    assert "attempts" not in said


def test_report_prints_the_schema_of_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].startswith("https://json-schema.org")
    assert cli.main(["report", "schema", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: testbed report schema [OPTIONS]")


def test_times_say_how_far_from_the_plan_events_began_and_ended(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all events of a kind; an attack that the orchestrator did not note has none."""
    change(run, "faults", lambda found: [e | {"t": e["t"] + 5 * 10**6} for e in found])
    assert cli.main(["report", "times", str(run.bundle.path), "--json"]) == 0
    replay, crash = json.loads(capsys.readouterr().out)
    assert (crash["kind"], crash["events"]) == ("process.crash", 1)
    assert crash["applied"] == {"n": 1, "p50_ms": 7.0, "max_ms": 7.0}
    assert crash["healed"] == {"n": 1, "p50_ms": 5.0, "max_ms": 5.0}
    assert (replay["kind"], replay["events"], replay["applied"]["n"]) == ("device.replay", 3, 0)


def test_report_takes_options_before_and_after_the_run(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """A subcommand beside RUN must not cost that."""
    for words in (["--json", str(run.bundle.path)], [str(run.bundle.path), "--json"]):
        assert cli.main(["report", *words]) == 0
        assert json.loads(capsys.readouterr().out)["verdict"] == "passed"
    assert cli.main(["report"]) == 2
    assert "Missing argument 'RUN'" in capsys.readouterr().err
    assert cli.main(["report", str(run.bundle.path), "more"]) == 2


def _expecting(run: RunFolder, **expect: Any) -> None:
    """As if the campaign's file had asked for this, too."""
    reschedule(run, lambda schedule: schedule["expect"].update(expect))


def test_what_is_meant_to_break_and_breaks_passes_and_if_it_holds_fails(run: RunFolder) -> None:
    """A campaign beyond the bound shows that the bound is real."""
    _expecting(run, broken=["validity", "durability"])  # block 40 has records with receipts
    assert whole_of(run).verdict == "failed", "it holds"
    edit(run.ledgers[2], 40, mend_sum=True, head=bytes(168))
    one, whole = summary_of(run), whole_of(run)
    assert held(one, "validity")[0] is False
    assert (one.verdict, whole.verdict) == ("passed", "passed")


def test_a_property_that_is_not_listed_and_breaks_only_degrades(run: RunFolder) -> None:
    edit(run.ledgers[2], 40, mend_sum=True, signature=bytes(64))
    _expecting(run, safety=["agreement"])
    summary = summary_of(run)
    assert held(summary, "validity")[0] is False
    assert summary.verdict == "degraded"


def test_a_bound_on_one_fault_is_judged_for_that_fault(run: RunFolder) -> None:
    name = next(event.fault for event in Evidence(run).trial.events if event.category == "fault")
    _expecting(run, fault={name: {"first_commit": "10s", "whole": "1ms"}})
    summary = summary_of(run)
    assert held(summary, f"{name}-first-commit")[0] is True
    assert held(summary, f"{name}-whole")[0] is False
    assert summary.verdict == "degraded"


def test_what_a_lab_cannot_do_is_skipped_and_never_passes(run: RunFolder) -> None:

    def skip(schedule: dict[str, Any]) -> None:
        for event in schedule["trials"][0]["events"]:
            event["skipped"] = "no power switch"

    reschedule(run, skip)
    whole = whole_of(run)
    assert {each.reason for each in whole.skipped} == {"no power switch"}
    assert whole.verdict == "partial"
    assert not whole.attacks
    assert not whole.faults


def test_a_claim_is_what_shows_it(run: RunFolder) -> None:
    """Held if all of it held; what was not seen leaves it open, what broke breaks it."""

    def claim(*shown_by: str) -> dict[str, object]:
        return {"claim": shown_by[0], "sentence": "It is so.", "shown_by": list(shown_by)}

    trial = Evidence(run).trial
    fault = next(event.fault for event in trial.events if event.category == "fault")
    attack = next(event.fault for event in trial.events if event.category == "attack")
    _expecting(
        run,
        claims=[claim(attack, "exactly-once"), claim(fault), claim("validity"), claim("nothing")],
    )
    claims = rebuild(run.bundle).claims
    assert [each.verdict for each in claims] == ["held", "held", "held", "invalid"]
    assert claims[0].trials > 0
    assert claims[0].upper95 is not None
    assert "It is so." in run.bundle.read("README.md").decode()
    edit(run.ledgers[2], 40, mend_sum=True, signature=bytes(64))
    assert [each.verdict for each in whole_of(run).claims][2] == "broken"


def test_properties_alone_show_no_claim_whose_events_were_all_skipped(run: RunFolder) -> None:
    def claim(*shown_by: str) -> dict[str, object]:
        return {"claim": "C", "sentence": "It is so.", "shown_by": list(shown_by)}

    def skip(schedule: dict[str, Any]) -> None:
        for event in schedule["trials"][0]["events"]:
            if event["category"] == "fault":
                event["skipped"] = "no power switch"

    trial = Evidence(run).trial
    fault = next(event.fault for event in trial.events if event.category == "fault")
    attack = next(event.fault for event in trial.events if event.category == "attack")
    reschedule(run, skip)
    _expecting(run, claims=[claim(fault, "validity"), claim(fault, attack, "validity")])
    assert [each.verdict for each in whole_of(run).claims] == ["skipped", "held"]
