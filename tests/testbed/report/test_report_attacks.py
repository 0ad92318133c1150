"""Attacks are judged by their own kind, and a campaign's expectations by what was found."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from testbed.bundle import RunFolder
from testbed.campaign.injection import Judgement
from testbed.campaign.kinds import attack_kinds, register
from testbed.checks.evidence import Evidence
from testbed.report.derive import rebuild
from tests.testbed.bundles import edit, judged, reschedule
from tests.testbed.report.support import held, whole_of


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


@pytest.mark.usefixtures("own_kinds")
def test_what_counts_as_a_success_is_the_kinds_own(run: RunFolder) -> None:
    replay = attack_kinds()["device.replay"]
    register(dataclasses.replace(replay, name="device.pretend", judge=arrivals_are_successes))
    attacked_by(run, "device.pretend")
    summary = judged(run)
    (attack,) = summary.attacks
    assert (attack.kind, attack.verdict) == ("device.pretend", "broken")
    assert attack.successes == attack.trials > 20
    assert summary.verdict == "failed"


def test_an_attack_of_a_kind_that_is_gone_is_not_judged_and_the_rest_is(run: RunFolder) -> None:
    attacked_by(run, "device.forgotten")
    summary = judged(run)
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
    summary = judged(run)
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


def _expecting(run: RunFolder, **expect: Any) -> None:
    """As if the campaign's file had asked for this, too."""
    reschedule(run, lambda schedule: schedule["expect"].update(expect))


def test_what_is_meant_to_break_and_breaks_passes_and_if_it_holds_fails(run: RunFolder) -> None:
    """A campaign beyond the bound shows that the bound is real."""
    _expecting(run, broken=["validity", "durability"])  # block 40 has records with receipts
    assert whole_of(run).verdict == "failed", "it holds"
    edit(run.ledgers[2], 40, mend_sum=True, head=bytes(168))
    one, whole = judged(run), whole_of(run)
    assert held(one, "validity")[0] is False
    assert (one.verdict, whole.verdict) == ("passed", "passed")


def test_a_property_that_is_not_listed_and_breaks_only_degrades(run: RunFolder) -> None:
    edit(run.ledgers[2], 40, mend_sum=True, signature=bytes(64))
    _expecting(run, safety=["agreement"])
    summary = judged(run)
    assert held(summary, "validity")[0] is False
    assert summary.verdict == "degraded"


def test_a_bound_on_one_fault_is_judged_for_that_fault(run: RunFolder) -> None:
    name = next(event.fault for event in Evidence(run).trial.events if event.category == "fault")
    _expecting(run, fault={name: {"first_commit": "10s", "whole": "1ms"}})
    summary = judged(run)
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
