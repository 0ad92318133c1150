"""The models: exact where they say so, honest about the rest, and deaf to nonsense."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hops import Hop
from testbed import cli
from testbed.bundle import Bundle
from testbed.errors import ConfigurationError
from testbed.model.calibration import SHIPPED, read_calibration
from testbed.model.consensus import (
    PAPER_RATIO,
    PAPER_WORK_PER_DELAY,
    Observation,
    Parameters,
    Times,
    calibrate,
    consensus_times,
    phase_ms,
)
from testbed.model.group import group_risk, group_table, scientific
from testbed.model.observe import observe
from tests.testbed.bundles import Story
from tests.testbed.test_page import traced

EXAMPLE = ["model", "group", "-n", "100", "-f", "10", "-m", "15"]

# --- small groups --------------------------------------------------------------------------------


@given(st.integers(4, 9), st.data())
def test_the_risks_are_what_counting_every_draw_gives(n: int, data: st.DataObject) -> None:
    f = data.draw(st.integers(0, (n - 1) // 3))
    m = data.draw(st.integers(1, n))
    k = data.draw(st.integers(1, m))
    draws = list(combinations(range(n), m))
    liars = [sum(member < f for member in draw) for draw in draws]
    risk = group_risk(n, f, m, k)
    assert risk.false_accept == Fraction(sum(x >= k for x in liars), len(draws))
    assert risk.denial == Fraction(sum(m - x < k for x in liars), len(draws))


def test_the_table_ends_where_liars_can_do_nothing() -> None:
    rows = group_table(100, 10)
    assert [(row.m, row.k) for row in rows] == [(m, m // 2 + 1) for m in range(1, 22, 2)]
    for one in (rows, group_table(100, 10, 8)):
        assert one[-1].denial == 0
        assert all(a.denial > b.denial for a, b in pairwise(one))
    assert rows[-1].false_accept == 0


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Fraction(11689, 8646508220), "1.352e-6"),
        (Fraction(1, 10**400), "1.000e-400"),
        (Fraction(1, 10), "1.000e-1"),
        (Fraction(0), "0"),
        (Fraction(1), "1"),
    ],
)
def test_no_probability_is_too_small_to_be_written(value: Fraction, written: str) -> None:
    assert scientific(value) == written


def test_the_example_of_the_documents_prints_its_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(EXAMPLE) == 0
    printed = capsys.readouterr().out
    for part in ("1.352e-6", "739,713", "C(f,x) C(n-f,m-x) / C(n,m)"):
        assert part in printed
    assert cli.main([*EXAMPLE, "-k", "8", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert group["denial_exact"] == "11689/8646508220"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("group -n 3 -f 0", "4 replicas"),
        ("group -n 1000000 -f 0", "at most"),
        ("group -n 100 -f 34", "at most 33"),
        ("group -n 100 -f -1", "0 or more"),
        ("group -n 100 -f 10 -m 0", "1 to n"),
        ("group -n 100 -f 10 -m 101", "1 to n"),
        ("group -n 100 -f 10 -m 15 -k 16", "1 to m"),
        ("group -n 100 -f 10 -k 0", "1 to n"),
        ("group -n ten -f 10", "-n"),
        ("consensus --replicas 3..9", "from 4"),
        ("consensus -n 4..999", "to 256"),
        ("consensus --replicas 9..4", "upwards"),
        ("consensus --replicas 4..9:0", "upwards"),
        ("consensus --replicas all", "use 4,7,10"),
        ("consensus --delay -1", "must be a fixed duration"),
        ("consensus --delay nan", "must be a fixed duration"),
        ("consensus --delay 0ms --work 0ms", "not both 0"),
        ("consensus --calibrate nowhere", "no bundle there"),
    ],
)
def test_nonsense_is_refused_with_the_reason(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["model", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


# --- time to consensus ---------------------------------------------------------------------------

DELAY, WORK = Parameters(delay_ms=3.0, work_ms=0.0), Parameters(delay_ms=0.0, work_ms=2.0)


@pytest.mark.parametrize("one_queue", [True, False])
@pytest.mark.parametrize(("senders", "needed"), [(1, 1), (3, 2), (9, 6), (99, 66)])
def test_a_phase_has_the_closed_forms_at_its_edges(
    senders: int, needed: int, one_queue: bool
) -> None:
    """Order statistics of exponentials; and the chain comes as near to them as one likes."""
    delays = 3 * sum(1 / rest for rest in range(senders, senders - needed, -1))
    work = 2 * (
        needed if one_queue else sum(1 / rest for rest in range(senders, senders - needed, -1))
    )
    for exact, edge, near in (
        (delays, DELAY, Parameters(delay_ms=3.0, work_ms=1e-9)),
        (work, WORK, Parameters(delay_ms=1e-9, work_ms=2.0)),
    ):
        assert phase_ms(senders, needed, edge, one_queue=one_queue) == pytest.approx(exact)
        assert phase_ms(senders, needed, near, one_queue=one_queue) == pytest.approx(exact)


def test_one_message_takes_its_delay_and_its_work() -> None:
    both = Parameters(delay_ms=3.0, work_ms=2.0)
    assert phase_ms(1, 1, both) == pytest.approx(5)
    # Two senders, one needed: the first to arrive is worked off first.
    assert phase_ms(2, 1, both) == pytest.approx(1.5 + 2)


def test_the_paper_s_ratio_is_the_one_that_was_fitted() -> None:
    def ratio(work_ms: float) -> float:
        of = Parameters(delay_ms=1.0, work_ms=work_ms)
        return consensus_times(100, of).total_ms / consensus_times(4, of).total_ms

    assert ratio(PAPER_WORK_PER_DELAY) == pytest.approx(PAPER_RATIO, abs=0.005)
    assert ratio(0) == pytest.approx(1.306, abs=0.001)


# --- measured ------------------------------------------------------------------------------------


def measured(times: Times) -> Observation:
    return Observation(
        replicas=times.replicas,
        blocks=10,
        prepared_ms=times.pre_prepare_ms + times.prepare_ms,
        committed_ms=times.commit_ms,
    )


def test_calibration_finds_the_parameters_that_made_the_times() -> None:
    true = Parameters(delay_ms=0.7, work_ms=0.25)
    found = calibrate([measured(consensus_times(n, true)) for n in (4, 7, 16)])
    assert found.separated
    assert (found.blocks, found.replicas, found.notes) == (30, (4, 7, 16), ())
    assert found.error < 1e-4
    assert found.parameters.delay_ms == pytest.approx(true.delay_ms, rel=0.01)
    assert found.parameters.work_ms == pytest.approx(true.work_ms, rel=0.01)


def test_calibration_says_when_all_runs_have_the_same_number_of_replicas() -> None:
    true = Parameters(delay_ms=0.7, work_ms=0.25)
    found = calibrate([measured(consensus_times(7, true))] * 2)
    assert found.separated
    (note,) = found.notes
    assert note.startswith("all runs have N = 7")


def test_calibration_says_when_the_times_cannot_separate_work_from_delay() -> None:
    odd = Observation(replicas=4, blocks=9, prepared_ms=28.0, committed_ms=12.0)
    found = calibrate([odd])
    assert not found.separated
    assert math.isclose(found.error, 0.074, abs_tol=0.01)
    with pytest.raises(ConfigurationError, match="nothing to calibrate"):
        calibrate([Observation(replicas=4, blocks=0, prepared_ms=0.0, committed_ms=0.0)])


def test_links_and_syncs_are_read_from_the_traces_of_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path)
    command = ["model", "calibrate", "--bundle", str(story.bundle.path)]
    assert cli.main(command) == 2
    assert "no traces; fix: testbed run" in capsys.readouterr().err
    traced(story.run)
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    link_us = 1000 * (Hop.ARRIVED - Hop.GATEWAY_OUT)
    assert set(found["costs"]["delays_us"]) == {link_us}
    assert found["costs"]["sync_us"] == 1000 * (Hop.SYNCED - Hop.PREPARED)
    shipped = read_calibration(SHIPPED)
    assert found["costs"]["check_us"] == shipped.costs.check_us
    assert found["machine"].startswith(shipped.machine)
    assert story.bundle.path.name in found["machine"]
    monkeypatch.setattr("testbed.model.observe.median", lambda _: 1e300)
    assert cli.main(command) == 2
    assert "its traces have impossible times" in capsys.readouterr().err
    assert cli.main([*command[:2], "--calibration", "x.json"]) == 2
    assert "only with --bundle" in capsys.readouterr().err


def test_a_bundle_is_read_on_its_proposers_clocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story(tmp_path)
    bundle: Bundle = story.bundle
    seen = observe(story.run)
    assert (seen.replicas, seen.prepared_ms, seen.committed_ms) == (4, 4.0, 2.0)
    command = ["model", "consensus", "--calibrate", str(bundle.path), "--replicas", "4,7"]
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["calibration"]["blocks"] == seen.blocks
    assert [each["replicas"] for each in report["times"]] == [4, 7]
    assert report["times"][0]["ratio"] == 1
    (note,) = report["notes"]
    assert cli.main(command) == 0
    assert "cannot separate work from delay" in note
    assert f"note: {note}" in capsys.readouterr().out
    assert cli.main([*command, "--work", "1ms"]) == 2
