"""The knee is found from steps of load; it is drawn and noted for a run that had them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from inventory.load import load_lab, packaged
from nodes.device.sends import Draw, Profile
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.checks.evidence import Evidence
from testbed.profile import steps
from testbed.report.measure import operations
from testbed.report.saturation import RateStep, knee_of, saturation_of, steps_of
from testbed.report.saturation_plot import draw_saturation
from tests.testbed.bundles import Story, reschedule
from tests.testbed.drawn import words


def step(offered: float, goodput: float, p50_ms: float) -> RateStep:
    return RateStep(
        start_ms=0,
        end_ms=1000,
        offered_per_s=offered,
        goodput_per_s=goodput,
        p50_ms=p50_ms,
        p99_ms=2 * p50_ms,
    )


@pytest.mark.parametrize(
    ("taken", "in_words"),
    [
        (
            [step(10, 10, 20), step(20, 20, 25), step(40, 40, 300)],
            "knee at 20/s offered, p50 25 ms",
        ),
        ([step(10, 10, 20), step(20, 20, 25), step(40, 30, 30)], "knee at 20/s offered, p50 25 ms"),
        ([step(10, 10, 20), step(20, 20, 25), step(40, 40, 30)], "no knee up to 40/s offered"),
        ([step(10, 5, 20), step(20, 5, 25), step(40, 5, 30)], "saturated already at 10/s"),
    ],
    ids=["latency", "goodput", "none", "at once"],
)
def test_the_knee_is_the_last_step_before_the_first_saturated_one(
    taken: list[RateStep], in_words: str
) -> None:
    assert in_words in knee_of(taken).in_words


def test_the_shipped_campaign_has_six_steps_of_twice_the_load() -> None:
    schedule = expand(load_campaign(find_campaign("saturation")), load_lab(packaged("loopback")))
    assert steps_of(schedule) == [(8000 + 6000 * n, 14_000 + 6000 * n) for n in range(6)]
    (trial,) = schedule.trials
    counts = [
        sum(start <= at < end for device in trial.devices for at in device.sends_ms.get("load", ()))
        for start, end in steps_of(schedule)
    ]
    assert sum(counts) == pytest.approx(252 * 6, rel=0.15)
    assert counts[-1] > 20 * counts[0] / 2


def test_a_run_without_steps_has_no_such_figure(tmp_path: Path) -> None:
    evidence = Evidence(Story(tmp_path).run)
    assert saturation_of(evidence, operations(evidence)) is None


def test_a_run_with_steps_is_drawn_and_noted(tmp_path: Path) -> None:
    """Nothing that the steps intended was answered: the run was another one."""
    story = Story(tmp_path)
    last = story.schedule.phases[-1]
    segments = steps((last.name, last.start_ms, last.end_ms), 2.0, 8.0, 3)
    draw = Draw.of(Profile(gaps="uniform", segments=segments), "steps")

    def in_steps(schedule: dict[str, Any]) -> None:
        for device in schedule["trials"][0]["devices"]:
            if device["role"] == "mobile":
                device["draws"] = [msgspec.to_builtins(draw)]

    reschedule(story.run, in_steps)
    evidence = Evidence(story.run)
    saturation = saturation_of(evidence, operations(evidence))
    assert saturation is not None
    assert len(saturation.steps) == 3
    assert saturation.knee is None
    assert all(each.goodput_per_s < each.offered_per_s for each in saturation.steps)
    assert {step.p99_ms for step in saturation.steps} == {5000.0}
    assert words(lambda: draw_saturation(saturation, None)).count("5,000") == 6
