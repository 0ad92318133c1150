"""Rate limits: no source, and no crowd of invented sources, gets more than its rate."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import Misuse
from gateway.limits import LogLimit, RateLimiter, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def limiter(clock: Clock, **changes: float) -> RateLimiter:
    return RateLimiter(
        rate_per_s=changes.get("rate_per_s", 10),
        burst=changes.get("burst", 5),
        total_rate_per_s=changes.get("total_rate_per_s", 1000),
        total_burst=changes.get("total_burst", 1000),
        sources_max=int(changes.get("sources_max", 3)),
        clock=clock,
    )


def test_a_burst_passes_then_the_rate_holds() -> None:
    clock = Clock()
    limits = limiter(clock)
    assert [limits.admit("a") for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now_s += 0.125
    assert [limits.admit("a") for _ in range(2)] == [True, False]
    assert limits.counts == {"admitted": 6, "rate": 3}


def test_one_flood_leaves_the_others_alone() -> None:
    limits = limiter(Clock())
    for _ in range(10_000):
        limits.admit("flood")
    assert all(limits.admit("honest") for _ in range(5))


def test_inventing_names_neither_grows_the_table_nor_washes_off_a_spent_bucket() -> None:
    clock = Clock()
    limits = limiter(clock)
    while limits.admit("flood"):
        pass
    for number in range(1000):
        limits.admit(f"invented-{number}")
    assert len(limits) == 3
    assert not limits.admit("flood")
    assert limits.counts["sources"] == 998


def test_an_idle_source_makes_room() -> None:
    clock = Clock()
    limits = limiter(clock)
    for name in "abc":
        limits.admit(name)
    assert not limits.admit("d")
    clock.now_s += 1
    assert limits.admit("d")
    assert len(limits) == 3


def test_all_together_stay_under_the_total() -> None:
    limits = limiter(Clock(), total_rate_per_s=1, total_burst=10, sources_max=100)
    assert sum(limits.admit(f"s{number}") for number in range(100)) == 10
    assert limits.counts["total"] == 90


def test_a_few_that_use_their_rate_to_the_full_leave_the_total_to_the_others() -> None:
    clock = Clock()
    limits = limiter(
        clock, rate_per_s=100, burst=200, total_rate_per_s=200, total_burst=400, sources_max=100
    )
    for step in range(1000):
        clock.now_s += 0.01
        for flood in ("one", "two", "three", "four"):
            for _ in range(4):
                limits.admit(flood)
        if step % 10 == 0:
            assert limits.admit("honest")
    assert limits.counts["total"] > 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(-1, 3)), max_size=200))
def test_never_more_than_burst_plus_rate_times_time(events: list[tuple[str, float]]) -> None:
    """Also when the clock steps back: stepping gains nothing beyond the time that passed."""
    clock = Clock()
    limits = limiter(clock)
    admitted: dict[str, int] = {}
    forward_s = 0.0
    for source, step_s in events:
        clock.now_s += step_s
        forward_s += max(0.0, step_s)
        admitted[source] = admitted.get(source, 0) + limits.admit(source)
    assert all(count <= 5 + 10 * forward_s + 1e-6 for count in admitted.values())
    assert len(limits) <= 3


def test_the_wait_that_is_named_is_enough_and_not_too_long() -> None:
    bucket = TokenBucket(10, 1, now_s=0)
    assert bucket.take(0)
    wait_s = bucket.wait_s(0)
    assert not bucket.take(wait_s * 0.9)
    assert bucket.take(wait_s + 1e-9)


def test_limits_that_let_nothing_through_are_a_bug() -> None:
    with pytest.raises(Misuse):
        TokenBucket(0, 1, now_s=0)


def test_a_log_takes_few_of_the_warnings_that_strangers_cause() -> None:
    """The first ones, then a few; the next that passes says how many were left out."""
    now_s = 0.0
    limit = LogLimit(1, 3, lambda: now_s)

    def passes(level: int) -> logging.LogRecord | None:
        record = logging.LogRecord("broker", level, "", 0, "words", None, None)
        return record if limit.filter(record) else None

    assert [passes(logging.WARNING) is not None for _ in range(100)] == [True] * 3 + [False] * 97
    assert passes(logging.INFO) is not None
    now_s = 1.0
    record = passes(logging.ERROR)
    assert record is not None
    assert record.__dict__["left_out"] == 97
