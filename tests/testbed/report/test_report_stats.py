"""The numbers that a paper would quote."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hops import Hop
from testbed.checks.stats import Latency, interval95, latency, upper95
from testbed.report.figures import ratio_in_words
from testbed.report.pairing import Estimate, plain
from testbed.report.saturation import RateStep, Saturation
from testbed.report.style import figure, log_axis
from testbed.report.where import PathPart, Row, Where
from testbed.report.where_plots import block_figure, way_figure
from testbed.traces.paths import BlockStep


@pytest.mark.parametrize(("trials", "bound"), [(59, 0.05), (299, 0.01), (2995, 0.001)])
def test_without_success_the_bound_is_the_rule_of_the_campaigns(trials: int, bound: float) -> None:
    """n trials without success bound the rate at 1 - 0.05^(1/n), never at zero."""
    got = upper95(0, trials)
    assert got == pytest.approx(1 - 0.05 ** (1 / trials))
    assert got == pytest.approx(bound, rel=0.02)


def test_without_trials_nothing_is_claimed() -> None:
    assert upper95(0, 0) is None
    assert interval95(0, 0) is None
    assert latency([]).p50 is None


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300))
def test_quantiles_are_observed_values_in_order(values: list[float]) -> None:
    """A quantile that was never measured is never printed."""
    got = latency(values)
    assert got.p50 is not None
    assert got.p90 is not None
    assert got.p99 is not None
    assert got.max is not None
    rounded = {round(value, 3) for value in values}
    assert {got.p50, got.p90, got.p99, got.max} <= rounded
    assert got.p50 <= got.p90 <= got.p99 <= got.max


@given(st.integers(0, 50), st.integers(1, 50))
def test_the_interval_holds_the_observed_rate(successes: int, extra: int) -> None:
    trials = successes + extra
    bounds = interval95(successes, trials)
    assert bounds is not None
    low, high = bounds
    assert low <= successes / trials <= high


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0123, "0.0123"), (220.4, "220"), (999.4, "999"), (999.7, "1,000"), (2012.3, "2,012")],
)
def test_a_number_in_words_is_never_a_power_of_ten(value: float, said: str) -> None:
    """In a figure, 2.01e+03 beside 220 is hard to compare."""
    assert plain(value, 3) == said
    assert plain(-value, 3) == f"-{said}"


def test_all_labels_write_a_thousand_and_more_as_whole_numbers() -> None:
    step = RateStep(
        start_ms=0, end_ms=1, offered_per_s=1234.5, goodput_per_s=1.0, p50_ms=2012.3, p99_ms=1.0
    )
    row = Row(
        kind="admission",
        hop=Hop.EXECUTED,
        part=PathPart("replicas", "execute"),
        ms=Latency(n=1, p50=2012.3),
        unresolvable=0,
        unknown=0,
        bound_ms=1.0,
    )
    beyond = msgspec.structs.replace(row, ms=Latency(n=0), unresolvable=1, bound_ms=1500.2)
    block = BlockStep("r1", 1, 0, 0, True, Hop.EXECUTED, 3_456_700_000)
    where = Where(every=1, problems=(), paths=(), blocks=(block,), rows=(row, beyond))
    made = [way_figure(where, "admission", None), block_figure(where, None)]
    labels = [text.get_text() for each in made for text in each.axes[0].texts]
    assert labels == ["2,012 ms", "≤ 1,500 ms: unresolvable", "3,457 ms"]
    found = Saturation(steps=(step,), knee=step, reached=True)
    assert found.in_words == "knee at 1,234/s offered, p50 2,012 ms"
    first = Saturation(steps=(step,), knee=None, reached=True)
    assert first.in_words == "saturated already at 1,234/s offered"
    ratio = Estimate(n=9, value=1500.0, lo=1000.4, hi=2500.0, least=1000.0, most=3000.0)
    said = "1,500x, pairs 1,000 to 3,000 (95 %: 1,000 to 2,500, n = 9)"
    assert ratio_in_words(ratio) == said
    axis = figure(1.0, None).add_subplot().yaxis
    log_axis(axis)
    assert axis.get_major_formatter()(2e6) == "2000000"
