"""Time to consensus over N: anchors of the event model, the real core in virtual time, figure."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import fmean

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import cli
from testbed.errors import ConfigurationError
from testbed.model import predict as predicting
from testbed.model.calibration import SHIPPED, Calibration, measure_prices, read_calibration
from testbed.model.consensus import Parameters, consensus_times
from testbed.model.curve import GOAL, Curve, CurveRow, curves, exponential_us, obstacle
from testbed.model.curve_plot import draw
from testbed.model.document import DOCUMENT_BYTES_MAX
from testbed.model.event_model import committed_ms, mean_committed_ms, mean_of
from testbed.model.loopback import Measured
from testbed.model.predict import (
    Prediction,
    Predictions,
    Round,
    calibration_of,
    compared,
    measure_rounds,
    read_predictions,
)
from testbed.model.real_core import Lever, Point, timed
from testbed.simulate.costs import Cores, Costs, Price
from testbed.simulate.timeline import Timeline

# --- the event model -----------------------------------------------------------------------------

ANCHORS = {7: 1.17, 10: 1.24, 16: 1.36, 22: 1.51, 31: 1.84, 40: 2.22, 52: 2.80, 64: 3.42, 76: 4.07}
ANCHORS |= {88: 4.69, 100: 5.34}


def ratio(replicas: int, delay_ms: float, work_ms: float) -> float:
    of = Parameters(delay_ms=delay_ms, work_ms=work_ms)
    return mean_committed_ms(replicas, of).value / mean_committed_ms(4, of).value


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        pytest.param(*each, marks=[] if each[0] in (7, 100) else pytest.mark.soak)
        for each in ANCHORS.items()
    ],
)
def test_the_event_model_has_the_shape_that_gives_the_paper_s_ratio(
    replicas: int, expected: float
) -> None:
    assert ratio(replicas, 1.0, 0.0964) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(
    ("delay_ms", "work_ms", "expected"),
    [
        pytest.param(1, 0.02, 1.46, marks=pytest.mark.soak),
        pytest.param(1, 0.05, 2.9, marks=pytest.mark.soak),
        pytest.param(1, 0.2, 9.9, marks=pytest.mark.soak),
        pytest.param(1, 1.0, 22.9, marks=pytest.mark.soak),
        pytest.param(1, 0, 1.28, marks=pytest.mark.soak),
        pytest.param(0, 1, 30.8, marks=pytest.mark.soak),
    ],
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


def test_a_calibration_prices_what_a_block_is_made_of() -> None:
    costs = measure_prices()
    assert {"PrePrepare", "Prepare", "Commit", "Submit", "Endorsement", "Block"} <= {*costs.kinds}
    assert costs.kinds["Prepared"].handle_us > 0
    assert min(price.open_us for price in costs.kinds.values()) >= 0
    for us in (costs.check_us, costs.sign_us, costs.sync_us, costs.kinds["Prepare"].handle_us):
        assert us > 0
    assert all(delay_us > 0 for delay_us in costs.delays_us)


def test_a_fit_finds_the_costs_that_made_the_times() -> None:
    base = priced(check_us=70.0, kinds=dict.fromkeys(KINDS, Price(10.0, 20.0)))
    measured = {n: ran(msgspec.structs.replace(base, send_us=60.0), n) for n in (4, 5, 7)}
    found = predicting.fitted(base, [measured[4], measured[5]], 2)
    assert found.send_us == pytest.approx(60, rel=0.05)
    prediction = predicting.predict(found, measured[7], 2)
    assert prediction.predicted_ms == pytest.approx(prediction.measured_ms, rel=0.05)


def ran(costs: Costs, replicas: int, blocks: int = 24) -> Measured:
    """What real processes with these costs would take on two cores."""
    shared = msgspec.structs.replace(costs, shared=True, cores=2)
    run = timed(Point(replicas=replicas, lever=Lever.PRODUCT, costs=shared, blocks=blocks))
    return Measured(
        replicas=replicas, ms=statistics.median(run.proposer_ms), cpu_us=sum(run.work_us.values())
    )


def test_a_machine_whose_speed_drifts_between_rounds_spoils_no_prediction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each round measures prices and all sizes; every second one from the largest."""
    order = list[int]()

    def costs() -> Costs:
        slowness = 1 + len(order) // 3  # of each round
        return priced(
            check_us=70.0 * slowness,
            kinds=dict.fromkeys(KINDS, Price(10.0 * slowness, 20.0 * slowness)),
            send_us=40.0 * slowness,
        )

    def measure(replicas: int, blocks: int, say: object) -> Measured:
        assert blocks == 10
        found = ran(costs(), replicas, 8)
        order.append(replicas)
        return found

    monkeypatch.setattr(predicting, "_PASSES", 1)
    monkeypatch.setattr(predicting, "_BLOCKS", 8)
    monkeypatch.setattr(predicting, "measure_prices", costs)
    monkeypatch.setattr(predicting, "measure_loopback", measure)
    found = measure_rounds([4, 5], [6], rounds=6, blocks=10, say=lambda _: None)
    assert order == [4, 5, 6, 6, 5, 4] * 3
    for row in compared(found):
        assert row.measured_ms.most is not None
        assert row.measured_ms.least is not None
        assert row.measured_ms.most > 2 * row.measured_ms.least
        assert row.fitted_to is (row.replicas < 6)
        for ratio in (row.ratio, row.cpu_ratio):
            assert ratio.lo is not None
            assert ratio.hi is not None
            assert 0.9 < ratio.lo <= ratio.hi < 1.1
    prices = calibration_of(found)
    assert prices.costs.check_us == pytest.approx(70 * 3.5)
    assert "6 rounds" in prices.machine


def test_the_interval_is_that_of_rounds_and_six_are_the_fewest() -> None:
    measured = rounds(1.0, 1.1, 0.9, 1.3, 1.0, 1.2)
    (row, _) = compared(measured)
    assert (row.ratio.lo, row.ratio.hi) == (0.9, 1.3)
    (row, _) = compared(msgspec.structs.replace(measured, rounds=measured.rounds[:5]))
    assert row.ratio.lo is None


def rounds(*ratios: float) -> Predictions:
    return Predictions(
        machine="a test",
        fitted_to=(4,),
        blocks=10,
        rounds=tuple(
            Round(
                costs=priced(),
                sizes=tuple(
                    Prediction(
                        replicas=n,
                        predicted_ms=10 * ratio,
                        measured_ms=10.0,
                        predicted_cpu_us=100.0,
                        measured_cpu_us=100.0,
                    )
                    for n in (4, 7)
                ),
            )
            for ratio in ratios
        ),
    )


# --- the command ---------------------------------------------------------------------------------


def a_curve(*rows: tuple[int, float, dict[str, float]]) -> Curve:
    return Curve(
        name="the product",
        rows=tuple(
            CurveRow(replicas=n, ms=mean_of([value]), ratio=value, work_us=work)
            for n, value, work in rows
        ),
    )


def test_what_stands_in_the_way_of_the_goal_is_named() -> None:
    missed = a_curve(
        (4, 1.0, {"check": 100, "send": 50}), (100, 9.0, {"check": 3100, "send": 1050})
    )
    reason = obstacle(missed)
    assert "9.00 times" in reason
    assert "checking signatures 75%" in reason
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
    points.write_bytes(msgspec.json.encode(rounds(1.0)))
    assert cli.main([*command, "--measured", str(points)]) == 2
    assert "give --figure too" in capsys.readouterr().err
    found = msgspec.to_builtins(rounds(1.0)) | {"fitted_to": [7]}
    found["rounds"][0]["sizes"][0]["replicas"] = 10
    points.write_text(json.dumps(found))
    assert cli.main([*command, "--measured", str(points), "--figure", str(figure)]) == 2
    assert "without N = 4" in capsys.readouterr().err


def test_the_last_ratio_of_every_curve_stands_in_the_figure() -> None:
    """Also if five curves end at the highest point."""
    with ThreadPoolExecutor(1) as executor:
        found = curves([4, 7], [Lever.PLAIN], priced(), "a test", executor, blocks=2)
    (plain,) = found.core
    first, last = plain.rows
    high = msgspec.structs.replace(last, ratio=16.3)
    same = (msgspec.structs.replace(plain, rows=(first, high)),) * 5
    drawn = draw(msgspec.structs.replace(found, core=same), (), "svg").decode()
    assert drawn.count("<!-- 16.30 -->") == 5


def test_the_figure_of_groups_alone_has_no_curve_of_the_core() -> None:
    with ThreadPoolExecutor(1) as executor:
        found = curves([4], [Lever.GROUP], priced(), "a test", executor, blocks=2)
    assert b"groups of 15" in draw(found, (), "svg")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("calibrate --fit 4", "two sizes"),
        ("calibrate --fit 3,4", "from 4"),
        ("predict --replicas many", "use 4,7,10"),
        ("curve --calibration nowhere.json", "No such file"),
        ("predict --measured nowhere.json", "No such file or directory; `testbed model predict"),
        ("curve -n 4 --figure nowhere/curve.svg", "there is no folder nowhere; make it"),
        ("curve -n 4..999", "to 256"),
        ("calibrate --bundle last --measured measured.json", "not with --bundle"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["model", *arguments.split()]) == 2
    assert says in capsys.readouterr().err


def test_the_table_of_measured_rounds_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "measured.json"
    file.write_bytes(msgspec.json.encode(rounds(1.0, 1.1, 0.9, 1.3, 1.0, 1.2)))
    command = ["model", "predict", "--measured", str(file)]
    assert cli.main(command) == 0
    table = capsys.readouterr().out
    assert "6 rounds of 10 blocks" in table
    assert "-10% to +30%" in table
    assert "+0%" in table
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["replicas"] for row in found["compared"]] == [4, 7]
    file.write_text(json.dumps(found))
    assert read_predictions(file) == rounds(1.0, 1.1, 0.9, 1.3, 1.0, 1.2)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("replicas", 3),
        ("measured_ms", None),
        ("measured_ms", 0.0),
        ("measured_ms", 1e-320),
        ("measured_ms", -1.0),
        ("predicted_ms", 1e300),
        ("measured_cpu_us", 0.0),
    ],
)
def test_impossible_times_are_refused(tmp_path: Path, field: str, wrong: object) -> None:
    found = msgspec.to_builtins(rounds(1.0))
    found["rounds"][0]["sizes"][0][field] = wrong
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(found))
    with pytest.raises(ConfigurationError, match=rf"measured\.json: .*\.{field}"):
        read_predictions(file)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("delays_us", []),
        ("delays_us", [-1]),
        ("delays_us", [10**12]),
        ("sync_us", -1.0),
        ("send_us", 1e300),
        ("cores", 0),
        ("cores", 10**9),
        ("kinds", {"Prepare": {"open_us": -1.0, "handle_us": 1.0}}),
        ("kinds", {str(number): {"open_us": 1.0, "handle_us": 1.0} for number in range(1000)}),
    ],
)
def test_impossible_prices_are_refused(tmp_path: Path, field: str, wrong: object) -> None:
    found = json.loads(SHIPPED.read_bytes())
    found["costs"][field] = wrong
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(found))
    with pytest.raises(ConfigurationError, match=rf"calibration\.json: .*\$\.costs\.{field}"):
        read_calibration(file)


def test_rounds_of_different_sizes_and_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    found = msgspec.to_builtins(rounds(1.0, 1.0))
    found["rounds"][1]["sizes"][0]["replicas"] = 10
    file.write_text(json.dumps(found))
    with pytest.raises(ConfigurationError, match="the same sizes"):
        read_predictions(file)
    for fitted_to in ([], [99]):
        file.write_text(json.dumps(msgspec.to_builtins(rounds(1.0)) | {"fitted_to": fitted_to}))
        with pytest.raises(ConfigurationError, match="fitted_to must name sizes"):
            read_predictions(file)
    for field, other in (("kinds", {}), ("delays_us", [1] * 7)):
        found = msgspec.to_builtins(rounds(1.0, 1.0))
        found["rounds"][0]["costs"][field] = other
        file.write_text(json.dumps(found))
        with pytest.raises(ConfigurationError, match="prices of the same kinds"):
            read_predictions(file)
    file.write_bytes(SHIPPED.read_bytes())
    with pytest.raises(
        ConfigurationError, match=r"testbed\.calibration/1.*fix: make it again with"
    ):
        read_predictions(file)
    file.write_bytes(b" " * DOCUMENT_BYTES_MAX + b"{}")
    with pytest.raises(ConfigurationError, match=f"more than {DOCUMENT_BYTES_MAX} bytes"):
        read_calibration(file)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.json"
    good = data.draw(st.sampled_from([SHIPPED.read_bytes(), msgspec.json.encode(rounds(1.0))]))
    at = data.draw(st.integers(0, len(good)))
    put = data.draw(
        st.binary(max_size=8) | st.sampled_from([b"NaN", b"1e999", b"-1", b"[" * 5000, b"null"])
    )
    cut = data.draw(st.integers(0, 8))
    file.write_bytes(good[:at] + put + good[at + cut :])
    for read in (read_calibration, read_predictions):
        with suppress(ConfigurationError):
            read(file)


def test_what_is_shipped_is_read() -> None:
    assert read_calibration(SHIPPED).costs.check_us > 0
    assert compared(read_predictions(SHIPPED.with_name("measured.json")))
