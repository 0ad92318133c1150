"""Medians and ratios over runs: intervals hold what they promise, also of censored values."""

from __future__ import annotations

from math import comb, inf
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.report.pairing import (
    Estimate,
    Known,
    between,
    known,
    median,
    paired_ratio,
    unpaired_ratio,
)

positive = st.floats(0.01, 1e4)


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_values_have_a_median_and_no_interval(n: int) -> None:
    found = median([known(float(value)) for value in range(1, n + 1)])
    assert found.value == (n + 1) / 2
    assert not found.sure
    assert found.hi is None


@pytest.mark.parametrize("n", [6, 20, 99, 1000])
def test_the_interval_of_a_median_is_the_sign_tests(n: int) -> None:
    """Its ends are the r-th values from both sides, r the largest that keeps 2.5 % outside."""
    found = median([known(float(value)) for value in range(1, n + 1)])
    assert found.lo is not None
    rank = int(found.lo)
    fewer, at_most = (
        sum(comb(n, heads) for heads in range(end)) / 2**n for end in (rank, rank + 1)
    )
    assert fewer <= 0.025 < at_most
    assert found.hi == n + 1 - rank


def test_four_against_four_is_the_least_that_bears_an_interval() -> None:
    ones, twos = [known(1.0)] * 4, [known(2.0)] * 4
    assert unpaired_ratio(ones, twos) == Estimate(
        n=4, value=2.0, lo=2.0, hi=2.0, least=2.0, most=2.0
    )
    assert not unpaired_ratio(ones[:3], twos[:3]).sure


def test_nothing_gives_nothing() -> None:
    assert paired_ratio([], []) == Estimate(n=0)
    assert unpaired_ratio([], [known(1.0)]) == Estimate(n=0)


@given(st.lists(st.tuples(positive, positive, st.booleans()), min_size=1, max_size=40))
def test_a_censored_ratio_is_bounded_by_what_any_true_value_would_give(
    pairs: list[tuple[float, float, bool]],
) -> None:
    """Censoring only widens: the true median and interval lie within what is reported."""
    base = [known(b) for b, _, _ in pairs]
    true = paired_ratio(base, [known(o) for _, o, _ in pairs])
    seen = paired_ratio(base, [between(o / 2) if hidden else known(o) for _, o, hidden in pairs])
    assert seen.n == true.n
    assert seen.value is not None
    assert true.value is not None
    assert seen.value <= true.value * 1.00001
    assert seen.at_least or seen.value == pytest.approx(true.value, rel=1e-4)
    if true.lo is not None and true.hi is not None:
        assert seen.lo is not None
        assert seen.lo <= true.lo * 1.00001
        assert seen.hi is None or seen.hi >= true.hi * 0.99999


def test_when_most_never_came_back_the_ratio_is_a_lower_bound_without_an_upper_end() -> None:
    other = [known(2.0), *[between(5000.0)] * 6]
    found = paired_ratio([known(100.0)] * 7, other)
    assert (found.value, found.at_least, found.censored) == (50.0, True, 6)
    assert found.lo == 0.02
    assert found.hi is None


@pytest.mark.parametrize("nothing", [0.0, 1e-300])
def test_a_baseline_of_nothing_says_nothing(nothing: float) -> None:
    """Goodput 0 in a baseline: any ratio is possible."""
    found = paired_ratio([known(nothing)], [known(1e18)])
    assert (found.value, found.at_least, found.hi) == (0.0, True, None)
    never = paired_ratio([between(10.0)], [between(10.0)])
    assert (never.value, never.at_least) == (0.0, True)


def test_between_nothing_and_anything_is_anything() -> None:
    """An outage in one pair, a baseline of nothing in the other."""
    found = paired_ratio([known(10.0), known(0.0)], [known(0.0), known(5.0)])
    assert (found.value, found.at_least, found.hi) == (0.0, True, None)


def coverage(made: Any) -> float:
    """How often the interval holds the true ratio, 2; the draws are seeded."""
    rng = Random(1)
    hits = 0
    for _ in range(400):
        found = made(rng)
        hits += found.lo <= 2.0 <= (inf if found.hi is None else found.hi)
    return hits / 400


def noisy(rng: Random, middle: float, n: int) -> list[Known]:
    return [known(middle * rng.lognormvariate(0, 0.5)) for _ in range(n)]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    paired = coverage(lambda rng: paired_ratio(noisy(rng, 1, 12), noisy(rng, 2, 12)))
    apart = coverage(lambda rng: unpaired_ratio(noisy(rng, 1, 8), noisy(rng, 2, 12)))
    many = coverage(lambda rng: unpaired_ratio(noisy(rng, 1, 25), noisy(rng, 2, 25)))
    assert min(paired, apart, many) > 0.92
