"""Load comes from profile and seed by one pure function; a schedule stores these, not each send."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.load import InvalidFile, load_lab, packaged
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign
from testbed.campaign.schedule import Schedule
from testbed.errors import ConfigurationError
from testbed.profile import Gaps, Profile, bursts, constant, intended_ms, ramp, steps

SPAN = ("load", 1_000, 21_000)
SHAPES = {
    "constant": constant(SPAN, 40.0),
    "ramp": ramp(SPAN, 10.0, 70.0),
    "steps": steps(SPAN, 10.0, 80.0, 4),
    "bursts": bursts(SPAN, 10.0, 100.0, for_ms=1_000, every_ms=4_000),
    "from nothing": ramp(SPAN, 0.0, 80.0),
}


def times(profile: Profile, seed: int) -> list[int]:
    return [at for _, at in intended_ms(profile, Random(seed))]


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from([*SHAPES]),
    gaps=st.sampled_from(["poisson", "uniform"]),
)
def test_times_are_in_order_within_the_span_and_as_many_as_expected(
    seed: int, shape: str, gaps: Gaps
) -> None:
    profile = Profile(gaps=gaps, segments=SHAPES[shape])
    found = times(profile, seed)
    assert found == times(profile, seed)
    assert all(a <= b for a, b in pairwise(found))
    assert all(1_000 <= at < 21_000 for at in found)
    if gaps == "uniform":
        assert abs(len(found) - profile.sends) <= 1
    else:
        assert abs(len(found) - profile.sends) < 6 * profile.sends**0.5


def test_a_ramp_and_steps_send_more_as_time_goes_on() -> None:
    for shape in ("ramp", "steps"):
        found = times(Profile(gaps="uniform", segments=SHAPES[shape]), 1)
        quarters = [
            sum(1_000 + q * 5_000 <= at < 6_000 + q * 5_000 for at in found) for q in range(4)
        ]
        assert all(a < b for a, b in pairwise(quarters))
    assert [round(each.from_per_s) for each in SHAPES["steps"]] == [10, 20, 40, 80]


def test_bursts_come_again_and_again() -> None:
    found = times(Profile(gaps="uniform", segments=SHAPES["bursts"]), 1)
    in_bursts = sum((at - 1_000) % 4_000 < 1_000 for at in found)
    assert in_bursts == pytest.approx(500, abs=6)
    assert len(found) - in_bursts == pytest.approx(150, abs=6)


def test_shares_add_up_to_the_whole() -> None:
    whole = Profile(gaps="poisson", segments=SHAPES["ramp"])
    assert 4 * whole.share(4).sends == pytest.approx(whole.sends)


# --- campaigns -----------------------------------------------------------------------------------

LOOPBACK = load_lab(packaged("loopback"))
STEPS = "shape: {kind: steps, in: load, to: 80/s, count: 4}"


def written(file: Path, shape: str) -> Path:
    file.write_text(
        f"campaign: t\nworkload: {{kind: enrol+data, rate: 10/s, {shape}}}\n"
        "phases: {warmup: 4s, load: 20s}\n"
    )
    return file


@pytest.mark.parametrize(
    ("shape", "in_words"),
    [
        (STEPS, "in 4 steps to 80/s in load"),
        ("shape: {kind: ramp, in: load, to: 80/s}", "rising to 80/s in load"),
        (
            "shape: {kind: bursts, in: load, to: 80/s, for: 1s, every: 4s}",
            "bursts of 80/s for 1s every 4s in load",
        ),
    ],
)
def test_a_campaign_s_load_has_a_shape(tmp_path: Path, shape: str, in_words: str) -> None:
    schedule = expand(load_campaign(written(tmp_path / "t.yaml", shape)), LOOPBACK, 1)
    assert in_words in schedule.workload.in_words
    sends = [device.sends_ms for device in schedule.trials[0].devices if device.sends_ms]
    assert {*sends[0]} == {"warmup", "load"}
    assert sum(len(each["load"]) for each in sends) > 1.3 * 20 * 10


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("shape: {kind: ramp, in: elsewhere, to: 80/s}", "no phase elsewhere"),
        ("shape: {kind: bursts, in: load, to: 8/s, for: 4s, every: 4s}", "shorter than every"),
        ("shape: {kind: waves, in: load, to: 8/s}", "waves"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(tmp_path: Path, shape: str, says: str) -> None:
    with pytest.raises(InvalidFile, match=says):
        load_campaign(written(tmp_path / "t.yaml", shape))


def test_a_schedule_stores_profile_and_seed_and_replays_identically(tmp_path: Path) -> None:
    schedule = expand(load_campaign(written(tmp_path / "t.yaml", STEPS)), LOOPBACK, 1)
    stored = schedule.canonical_json()
    assert b"sends_ms" not in stored
    again = Schedule.from_json(stored)
    assert again.canonical_json() == stored
    assert again.schedule_hash == schedule.schedule_hash
    for before, after in zip(schedule.trials[0].devices, again.trials[0].devices, strict=True):
        assert before.sends_ms == after.sends_ms


def test_sends_that_would_be_drawn_otherwise_are_refused(tmp_path: Path) -> None:
    schedule = expand(load_campaign(written(tmp_path / "t.yaml", STEPS)), LOOPBACK, 1)
    stored = json.loads(schedule.canonical_json())
    draw = next(each for each in stored["trials"][0]["devices"] if "draws" in each)["draws"][0]
    draw["seed"] = "2/0/device/another"
    changed = Schedule.from_json(json.dumps(stored))
    with pytest.raises(ConfigurationError, match="draws other times"):
        [device.sends_ms for device in changed.trials[0].devices]


def test_a_schedule_of_version_2_keeps_its_sends_and_its_hash(tmp_path: Path) -> None:
    schedule = expand(load_campaign(written(tmp_path / "t.yaml", STEPS)), LOOPBACK, 1)
    old = json.loads(schedule.canonical_json())
    old["schema"] = "testbed.schedule/2"
    del old["workload"]["shape"]
    for device in old["trials"][0]["devices"]:
        device.pop("draws", None)
        device["sends_ms"] = {"load": [2_000, 3_000]}
    content = json.dumps(old, sort_keys=True, separators=(",", ":")).encode()
    read = Schedule.from_json(content)
    assert read.canonical_json() == content
    assert read.trials[0].devices[0].sends_ms == {"load": (2_000, 3_000)}
