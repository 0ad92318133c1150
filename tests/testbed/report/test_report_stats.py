"""The numbers that a paper would quote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.checks.stats import interval95, latency, upper95


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
