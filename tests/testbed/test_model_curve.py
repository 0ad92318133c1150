"""Time to consensus over N: anchors of the event model, the real core in virtual time, figure."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from statistics import fmean

import msgspec
import pytest

from testbed import cli
from testbed.model.calibration import SHIPPED, Calibration, calibrate, read_calibration
from testbed.model.consensus import Parameters, consensus_times
from testbed.model.curve import GOAL, Curve, Row, curves, exponential_us, obstacle
from testbed.model.event_model import committed_ms, mean_committed_ms, mean_of
from testbed.model.loopback import Measured
from testbed.model.predict import fitted, predict
from testbed.model.real_core import Lever, Point, timed
from testbed.report.pairing import known, median
from testbed.simulate.costs import Cores, Costs, Price
from testbed.simulate.timeline import Timeline

# --- the event model -----------------------------------------------------------------------------

ANCHORS = {7: 1.17, 10: 1.24, 16: 1.36, 22: 1.51, 31: 1.84, 40: 2.22, 52: 2.80, 64: 3.42, 76: 4.07}
ANCHORS |= {88: 4.69, 100: 5.34}


def ratio(replicas: int, delay_ms: float, work_ms: float) -> float:
    of = Parameters(delay_ms=delay_ms, work_ms=work_ms)
    return mean_committed_ms(replicas, of).value / mean_committed_ms(4, of).value


@pytest.mark.parametrize(("replicas", "expected"), ANCHORS.items())
def test_the_event_model_has_the_shape_that_gives_the_paper_s_ratio(
    replicas: int, expected: float
) -> None:
    assert ratio(replicas, 1.0, 0.0964) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(
    ("delay_ms", "work_ms", "expected"),
    [(1, 0.02, 1.46), (1, 0.05, 2.9), (1, 0.2, 9.9), (1, 1.0, 22.9), (1, 0, 1.28), (0, 1, 30.8)],
)
def test_the_event_model_from_transmission_alone_to_processing_alone(
    delay_ms: float, work_ms: float, expected: float
) -> None:
    assert ratio(100, delay_ms, work_ms) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("n", "runs"), [(4, 1500), (16, 60), (49, 4)])
def test_the_closed_form_stays_near_the_event_model(n: int, runs: int) -> None:
    """It waits for the primary and at a barrier, the event model for 2f+1 and at none."""
    random = Random(n)
    for work_ms in (0.0964, 1.0):
        of = Parameters(delay_ms=1.0, work_ms=work_ms)
        mean_ms = fmean(committed_ms(n, of, random) for _ in range(runs))
        assert 0.75 < consensus_times(n, of).total_ms / mean_ms < 1.1


# --- the real core -------------------------------------------------------------------------------


def priced(**changes: object) -> Costs:
    """Nothing costs anything but for what a test says."""
    free = Costs(
        kinds=dict.fromkeys(KINDS, Price(0.0, 0.0)),
        check_us=0.0,
        sign_us=0.0,
        sync_us=0.0,
        send_us=0.0,
        delays_us=(1000,),
    )
    return msgspec.structs.replace(free, **changes)


KINDS = (
    "PrePrepare",
    "Prepare",
    "Commit",
    "Checkpoint",
    "StatusMessage",
    "EndorseRequest",
    "Endorsement",
    "Submit",
    "Subscribe",
    "Superfluous",
    "Request",
    "Prepared",
    "Block",
    "Record",
)


def test_without_work_consensus_is_three_delays() -> None:
    """PRE-PREPARE, PREPARE, COMMIT: OSDI'99, section 4.2."""
    found = timed(Point(replicas=4, lever=Lever.PRODUCT, costs=priced(), blocks=4))
    assert len(found.consensus_ms) == 4
    assert set(found.consensus_ms) == {3.0}


def test_the_sync_before_a_commit_stands_on_the_way_once() -> None:
    found = timed(Point(replicas=4, lever=Lever.PRODUCT, costs=priced(sync_us=500.0), blocks=4))
    assert set(found.consensus_ms) == {3.5}
    assert found.work_us["sync"] >= 500


def test_equal_points_take_equal_time() -> None:
    point = Point(replicas=7, lever=Lever.PLAIN, costs=priced(check_us=70.0), blocks=3)
    assert timed(point) == timed(point)


def test_each_lever_lowers_what_it_is_about() -> None:
    costs = priced(check_us=100.0, send_us=5.0)

    def checks(lever: Lever) -> float:
        return timed(Point(replicas=10, lever=lever, costs=costs, blocks=3)).work_us["check"]

    plain = checks(Lever.PLAIN)
    assert checks(Lever.SUPERFLUOUS) < plain
    assert checks(Lever.COMMITS) < plain
    assert checks(Lever.PRODUCT) < min(checks(Lever.SUPERFLUOUS), checks(Lever.COMMITS))
    one, four = (
        fmean(timed(Point(replicas=10, lever=each, costs=costs, blocks=3)).consensus_ms)
        for each in (Lever.PLAIN, Lever.CORES)
    )
    assert four < one
    many = timed(Point(replicas=4, lever=Lever.BATCHES, costs=costs, blocks=2))
    assert many.records > 8


def test_a_small_group_makes_an_access_request_of_many_replicas_faster() -> None:
    costs = priced(check_us=100.0, kinds={**priced().kinds, "Endorsement": Price(50.0, 50.0)})
    large, small = (
        timed(Point(replicas=31, lever=lever, costs=costs, blocks=2)).access_ms
        for lever in (Lever.PRODUCT, Lever.GROUP)
    )
    assert small < large


def test_machines_that_share_cores_wait_for_each_other() -> None:
    costs = priced(check_us=1000.0, shared=True, cores=1)
    alone = msgspec.structs.replace(costs, shared=False)
    shared_ms, own_ms = (
        fmean(timed(Point(replicas=4, lever=Lever.PRODUCT, costs=each, blocks=3)).consensus_ms)
        for each in (costs, alone)
    )
    assert shared_ms > 1.5 * own_ms


def test_who_gets_a_core_next_is_drawn_and_nobody_is_forgotten() -> None:
    timeline, firsts = Timeline(), set[int]()
    cores = Cores(timeline, 1)
    for _ in range(20):
        order = list[int]()
        for place in range(4):
            cores.take(order.append, place)
        assert order == [0]
        for _ in range(4):
            cores.give()
            timeline.run(1, 10)
        assert sorted(order) == [0, 1, 2, 3]
        firsts.add(order[1])
    assert firsts == {1, 2, 3}


def test_frames_to_one_party_that_leave_together_cost_one_write() -> None:
    """A replica that is late sends PREPARE and COMMIT at once."""
    costs = priced(check_us=1000.0, shared=True, cores=1)
    counts = timed(Point(replicas=13, lever=Lever.PRODUCT, costs=costs, blocks=4)).counts
    assert counts["send"] < 0.9 * counts["open"]


def test_only_the_vote_that_completes_a_quorum_is_priced_as_such() -> None:
    costs = priced(kinds={**priced().kinds, "Prepared": Price(0.0, 100.0)})
    for n in (4, 13):
        found = timed(Point(replicas=n, lever=Lever.PRODUCT, costs=costs, blocks=4))
        assert found.work_us["handle"] == pytest.approx(100.0)


# --- calibrated ----------------------------------------------------------------------------------


def test_a_calibration_prices_what_a_block_is_made_of(tmp_path: Path) -> None:
    costs = calibrate("here", tmp_path).costs
    assert {"PrePrepare", "Prepare", "Commit", "Submit", "Endorsement", "Block"} <= {*costs.kinds}
    assert costs.kinds["Prepared"].handle_us > 0
    assert min(price.open_us for price in costs.kinds.values()) >= 0
    for us in (costs.check_us, costs.sign_us, costs.sync_us, costs.kinds["Prepare"].handle_us):
        assert us > 0
    assert all(delay_us > 0 for delay_us in costs.delays_us)


def test_a_fit_finds_the_costs_that_made_the_times() -> None:
    base = priced(check_us=70.0, kinds=dict.fromkeys(KINDS, Price(10.0, 20.0)))
    true = msgspec.structs.replace(base, send_us=60.0)
    runs = {
        n: timed(
            Point(
                replicas=n,
                lever=Lever.PRODUCT,
                costs=msgspec.structs.replace(true, shared=True, cores=2),
                blocks=24,
            )
        )
        for n in (4, 7, 10)
    }
    measured = {
        n: Measured(
            replicas=n,
            ms=median([known(ms) for ms in run.proposer_ms]),
            cpu_us=sum(run.work_us.values()),
            load=1.0,
        )
        for n, run in runs.items()
    }
    found = fitted(base, [measured[4], measured[7]], 2)
    assert found.send_us == pytest.approx(60, rel=0.05)
    told = predict(found, measured[10], 2, fitted_to=False)
    assert abs(told.error) < 0.05
    assert told.error_lo is not None
    assert told.error_hi is not None
    assert told.error_lo <= told.error <= told.error_hi


# --- the command ---------------------------------------------------------------------------------


def a_curve(*rows: tuple[int, float, dict[str, float]]) -> Curve:
    return Curve(
        name="the product",
        rows=tuple(
            Row(replicas=n, ms=mean_of([value]), ratio=value, work_us=work)
            for n, value, work in rows
        ),
    )


def test_what_stands_in_the_way_of_the_goal_is_named() -> None:
    missed = a_curve(
        (4, 1.0, {"check": 100, "send": 50}), (100, 9.0, {"check": 3100, "send": 1050})
    )
    told = obstacle(missed)
    assert "9.00 times" in told
    assert "checking signatures 75%" in told
    assert f"the goal of {GOAL} is reached" in obstacle(a_curve((4, 1.0, {}), (100, 1.9, {})))
    assert "the goal is about N = 100" in obstacle(a_curve((4, 1.0, {}), (7, 1.2, {})))


def test_points_may_be_spread_over_any_executor() -> None:
    costs = priced(check_us=50.0)
    seen = Counter[str]()
    with ThreadPoolExecutor(2) as executor:
        found = curves(
            [7],
            [Lever.PRODUCT, Lever.GROUP],
            costs,
            "a test",
            executor,
            blocks=2,
            advance=lambda each: seen.update([each.lever.name]),
        )
    assert seen == {"PRODUCT": 2, "GROUP": 2}
    assert [curve.name for curve in found.core] == [Lever.PRODUCT.value, Lever.GROUP.value]
    assert [row.replicas for row in found.core[0].rows] == [4, 7]
    assert found.core[0].rows[0].ratio == 1


def test_delays_are_quantiles_of_their_mean() -> None:
    assert fmean(exponential_us(2.0)) == pytest.approx(2000, rel=0.01)


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration, points = tmp_path / "calibration.json", tmp_path / "points.json"
    calibration.write_bytes(
        msgspec.json.encode(Calibration(machine="a test", costs=priced(check_us=50.0)))
    )
    figure = tmp_path / "curve.svg"
    command = ["model", "curve", "-n", "4,7", "--calibration", str(calibration), "--blocks", "2"]
    command += ["--lever", "product", "--jobs", "1"]
    assert cli.main([*command, "--figure", str(figure), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "testbed.model.curve/1"
    assert [row["replicas"] for row in found["core"][0]["rows"]] == [4, 7]
    drawn = figure.read_text()
    assert drawn.startswith("<?xml")
    assert " style=" not in drawn
    assert cli.main([*command, "--figure", str(tmp_path / "x.png")]) == 2
    assert ".svg or .pdf" in capsys.readouterr().err
    assert cli.main([*command, "--lever", "magic"]) == 2
    assert "plain, superfluous" in capsys.readouterr().err
    points.write_text("{}")
    assert cli.main([*command, "--measured", str(points)]) == 2
    assert "points.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("calibrate --fit 4", "two sizes"),
        ("calibrate --fit 3,4", "from 4"),
        ("predict --replicas many", "use 4,7,10"),
        ("predict --calibration nowhere.json", "not a calibration"),
        ("predict --measured nowhere.json", "not what `predict --json` prints"),
        ("curve -n 4..999", "to 256"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["model", *arguments.split()]) == 2
    assert says in capsys.readouterr().err


def test_files_with_impossible_times_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "measured.json"
    for what, value in (("value", None), ("value", 0.0), ("cpu", 0.0)):
        found = json.loads((SHIPPED.parent / "measured.json").read_bytes())
        if what == "value":
            found["rows"][0]["measured_ms"]["value"] = value
        else:
            found["rows"][0]["measured_cpu_us"] = value
        measured.write_text(json.dumps(found))
        assert cli.main(["model", "predict", "--measured", str(measured)]) == 2
        assert "measured.json: no measured times of 4 replicas" in capsys.readouterr().err
    calibration = tmp_path / "calibration.json"
    for field, wrong in (("delays_us", []), ("delays_us", [-1]), ("sync_us", -1.0), ("cores", 0)):
        found = json.loads(SHIPPED.read_bytes())
        found["costs"][field] = wrong
        calibration.write_text(json.dumps(found))
        assert cli.main(["model", "predict", "--calibration", str(calibration)]) == 2
        assert f"$.costs.{field}" in capsys.readouterr().err


def test_the_shipped_calibration_is_read() -> None:
    assert read_calibration(SHIPPED).costs.check_us > 0
