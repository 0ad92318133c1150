"""The filter over redundant sensors finds a minority that lies, and says what it cannot find."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from nodes.device.sensor import RoomSensor
from testbed.checks.sensor_filter import THRESHOLD, WINDOW_S, Sample, scores

SENSORS = ("m1", "m2", "m3", "b1", "b2")
LIES_S = (20.0, 40.0)

Lie = Callable[[float, int, int], int]
"""(seconds since its begin, true value, first true value) -> the reading."""
LIES: dict[str, Lie] = {
    "bias": lambda _s, true, _first: true + 2_000,
    "drift": lambda s, true, _first: true + round(250 * s),
    "freeze": lambda _s, _true, first: first,
}


def readings(seed: int, lie: Lie | None, liars: tuple[str, ...]) -> list[Sample]:
    """A minute of a room: mobiles send two readings a second at random times, boards one."""
    rng = Random(seed)
    samples = []
    for name in SENSORS:
        sensor, t_s = RoomSensor(seed, name), 0.0
        first: int | None = None
        while (t_s := t_s + (rng.expovariate(2.0) if name[0] == "m" else 1.0)) < 60:
            value = sensor.read()[0]
            if lie is not None and name in liars and LIES_S[0] <= t_s < LIES_S[1]:
                first = value if first is None else first
                value = lie(t_s - LIES_S[0], value, first)
            samples.append(Sample(t_s, name, value))
    return sorted(samples)


def suspects(samples: list[Sample], since_s: float, until_s: float) -> dict[str, float]:
    """The share of each sensor's readings of a time that are suspect."""
    by_sensor: dict[str, list[bool]] = {name: [] for name in SENSORS}
    for sample, score in zip(samples, scores(samples), strict=True):
        if since_s <= sample.t_s < until_s:
            by_sensor[sample.sensor].append(score > THRESHOLD)
    return {name: sum(found) / len(found) for name, found in by_sensor.items()}


@pytest.mark.parametrize("liar", ["m1", "b2"])
@pytest.mark.parametrize("how", LIES)
def test_a_sensor_that_lies_is_suspected_and_the_others_are_not(how: str, liar: str) -> None:
    others: list[float] = []
    for seed in range(5):
        settled_s = LIES_S[0] + 1.5 * WINDOW_S
        found = suspects(readings(seed, LIES[how], (liar,)), settled_s, LIES_S[1])
        assert found.pop(liar) > 0.4, seed
        others += found.values()
    assert sum(others) / len(others) < 0.15


def test_honest_sensors_are_seldom_suspected() -> None:
    shares = [suspects(readings(seed, None, ()), 0, 60).values() for seed in range(10)]
    assert sum(map(sum, shares)) / len(SENSORS) / 10 < 0.03


def test_a_majority_that_lies_alike_is_the_truth_to_the_filter() -> None:
    found = suspects(readings(1, LIES["bias"], ("m1", "m2", "m3")), 30, 40)
    assert max(found[name] for name in ("m1", "m2", "m3")) == 0
    assert min(found[name] for name in ("b1", "b2")) > 0, "the honest ones are suspected"


def test_a_score_depends_on_nothing_later() -> None:
    samples = readings(3, LIES["bias"], ("m2",))
    assert scores(samples)[:200] == scores(samples[:200])


def test_of_two_sensors_nobody_can_say_which_one_lies() -> None:
    two = [Sample(t / 10, name, 1e6 * (name == "a")) for t in range(50) for name in "ab"]
    assert set(scores(two)) == {0.0}
