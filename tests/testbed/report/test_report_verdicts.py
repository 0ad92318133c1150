"""Verdicts of a run: what was not seen, missing or damaged counts for nothing, and is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chain.block import Block
from nodes.replica.ledger_file import block_of, encode_records
from testbed.bundle import RunFolder
from testbed.checks.conditions import ClockLine, ConditionLine
from testbed.checks.evidence import Evidence
from testbed.report.derive import derive_run
from testbed.report.measure import operations
from testbed.report.results import results
from tests.testbed.bundles import START_NS, Story, edit, judged, lines, reschedule, write_lines
from tests.testbed.report.support import Lines, change, held
from tests.testbed.test_conditions import FINE, LIMITS


def test_a_good_run_passes_with_everything_counted(run: RunFolder, story: Story) -> None:
    summary = judged(run)
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
    # Each attempt had 1,000 frames on a board's line refused, in three events.
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
    summary = judged(run)
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
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert not getattr(summary.faults[0], step)
    assert any("kill-primary" in note for note in summary.notes)


def test_a_fault_that_was_looked_for_and_not_seen_is_no_better(run: RunFolder) -> None:
    change(run, "faults", lambda found: [each | {"seen": False} for each in found])
    summary = judged(run)
    assert summary.verdict == "invalid"
    assert "`testbed campaign kinds` says how" in summary.notes[0]


def test_a_target_that_did_not_come_back_is_named(run: RunFolder) -> None:
    """Others may go on well without it: the verdict is theirs, and the reader's to weigh."""
    change(run, "faults", lambda found: [each | {"whole": False} for each in found])
    summary = judged(run)
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
    summary = judged(run)
    assert summary.attacks[0].verdict == "invalid"
    assert summary.verdict == "invalid"


def test_arrivals_before_the_attempt_do_not_count(run: RunFolder) -> None:
    """What the gateway saw before is the device's own message."""
    change(run, "gateway", lambda found: [e | {"t": found[0]["t"]} for e in found])
    assert judged(run).attacks[0].observed == 6  # the frames on the serial lines


def test_a_receipt_for_what_is_on_no_chain_is_a_lost_record(run: RunFolder) -> None:
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    change(
        run,
        name,
        lambda found: [*found, found[-1] | {"event": "admitted", "id": "00" * 32}],
    )
    summary = judged(run)
    assert summary.verdict == "failed"
    assert f"{name} holds a receipt" in held(summary, "durability")[1]


def test_no_commit_after_healing_is_degraded_not_failed(run: RunFolder) -> None:
    late = 10**12
    change(
        run,
        "faults",
        lambda found: [e | {"t": e["t"] + late * (e["step"] == "healed")} for e in found],
    )
    summary = judged(run)
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
    summary = judged(run)
    (fault,) = summary.faults
    assert fault.recovery_state == state
    assert held(summary, "first-commit-after-heal")[0] is held_now
    if state == "unknown":
        assert fault.recovery_ms is None
    else:
        assert fault.recovery_ms == pytest.approx(8.0, abs=0.01)
        assert fault.recovery_bound_ms == pytest.approx(bound_ms, abs=0.01)


def test_a_damaged_ledger_fails_the_run_and_is_named(run: RunFolder) -> None:
    edit(run.ledgers[2], 40, mend_sum=True, signature=bytes(64))
    summary = judged(run)
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
    summary = judged(run)
    assert held(summary, "agreement") == (True, "heights: r2 109, r3 109, r4 109")
    assert summary.ledger_verified
    assert "r1 lied to the end: its ledger is not judged" in summary.notes


def test_a_replica_that_was_healed_is_judged_last_but_like_the_others(run: RunFolder) -> None:
    """Only what it sent was forged; else a campaign in which each lied once would prove nothing."""
    made_to_lie(run)
    summary = judged(run)
    assert summary.verdict == "passed"
    assert held(summary, "agreement") == (True, "heights: r2 109, r3 109, r4 109, r1 109")
    assert summary.notes[0].startswith("r1 lied for a while")
    edit(run.ledgers[0], 40, mend_sum=True, head=bytes(168))
    assert judged(run).verdict == "failed"


def test_a_device_that_asks_again_does_not_stand_in_for_a_replay(run: RunFolder) -> None:
    """An arrival counts for a trial only over the relay that the attacker spoke as."""

    def by_another(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [e | {"relay": "honest"} if e.get("relay") == "rogue" else e for e in found]

    change(run, "gateway", by_another)
    (attack,) = judged(run).attacks
    assert 0 < attack.observed < attack.trials  # the frames on serial lines


@pytest.mark.parametrize(
    ("name", "event", "field", "value"),
    [
        ("r2", "block", "height", 2**64),
        ("phones-1", "admitted", "latency_ms", 1e308),
    ],
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


def test_answers_around_a_clock_that_is_set_back_count(run: RunFolder) -> None:
    """A device's host may set its clock back by more than the answer takes. Figures are not
    negative."""
    before = judged(run)

    def set_back(found: Lines) -> Lines:
        return [
            each | {"latency_ms": -250.0} if each.get("event") in ("admitted", "data") else each
            for each in found
        ]

    for log in run.raw.glob("*.jsonl"):
        change(run, log.stem, set_back)
    summary = judged(run)
    assert (summary.notes, summary.verdict) == (before.notes, before.verdict)
    assert summary.devices_admitted == before.devices_admitted
    for kind in ("admission", "data"):
        found, honest = getattr(summary.latency_ms, kind), getattr(before.latency_ms, kind)
        assert (found.n, found.censored, found.p50) == (honest.n, honest.censored, 0.0)


def test_what_took_less_than_no_time_has_no_negative_figure(run: RunFolder) -> None:
    """A lying replica, and a clock of the orchestrator that was set back: a median of such figures
    would end the report."""
    before = judged(run).latency_ms.consensus.n

    def executed_early(found: Lines) -> Lines:
        one = next(each for each in found if each.get("proposed_us") == 0 and each["count"])
        return [each | {"executed_us": -1} if each is one else each for each in found]

    def set_back(found: Lines) -> Lines:
        verified = next(each for each in found if each["step"] == "verified")
        verified["t"] -= 10**12
        return found

    change(run, "r1", executed_early)
    change(run, "faults", set_back)
    summary = judged(run)
    assert summary.latency_ms.consensus.n == before - 1
    assert summary.faults[0].whole_ms == 0.0


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
    assert judged(run).notes == ((says,) if says else ())


def test_torn_lines_are_counted_and_change_no_verdict(run: RunFolder) -> None:
    with (run.raw / "r2.jsonl").open("a") as stream:
        stream.write('{"t": 12')
    summary = judged(run)
    assert summary.verdict == "passed"
    assert summary.notes == ("raw/r2.jsonl: 1 torn line left out",)


def test_unanswered_operations_are_censored_and_late_ones_are_not(run: RunFolder) -> None:
    """A late answer has its true latency; a missing one is counted and is in no quantile."""
    name = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    before = judged(run).latency_ms

    def spoil(found: Lines) -> Lines:
        data = [each for each in found if each["event"] == "data"]
        late = [
            {k: v for k, v in each.items() if k != "id"} | {"event": "late"} for each in data[:2]
        ]
        lost, slow = data[0], data[1] | {"latency_ms": 6000.0}
        kept = [e for e in found if e not in (lost, data[1]) and e["event"] != "admitted"]
        return [*kept, *late, slow]

    change(run, name, spoil)
    after = judged(run).latency_ms
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
    summary = judged(run)
    table = results(evidence, summary, operations(evidence))
    row = next(
        dict(zip(table.columns, cells, strict=True)) for cells in table.rows if "replay" in cells
    )
    assert (row["p50_base_ms"], row["p99_base_ms"]) == (40.0, 40.0)
    assert (row["p50_attack_ms"], row["p99_attack_ms"], row["max_attack_ms"]) == (None, None, None)
    assert 0 < float(str(row["goodput_attack_per_s"])) < float(str(row["goodput_base_per_s"]))
