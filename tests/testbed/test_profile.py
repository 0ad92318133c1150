"""Load comes from profile and seed by one pure function; a schedule stores these, not each send."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.load import InvalidFile, load_lab, packaged
from nodes.device.sends import Draw, Gaps, Profile, Segment, intended_ms
from nodes.device.workload import Go, wait_for_go
from nodes.exits import Trouble
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign
from testbed.campaign.schedule import Schedule
from testbed.errors import ConfigurationError
from testbed.profile import bursts, constant, ramp, steps

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


def test_a_device_draws_the_sends_of_its_schedule_from_a_plan_that_lists_none(
    tmp_path: Path,
) -> None:
    schedule = expand(load_campaign(written(tmp_path / "t.yaml", STEPS)), LOOPBACK, 1)
    sending = [device for device in schedule.trials[0].devices if device.draws]
    assert len({device.draws[0].seed for device in sending}) == len(sending)
    for device in sending:
        plan = Go(start_ns=0, enrol_at_ms=0, draws=device.draws, end_ms=24_000, timeout_ms=5_000)
        (tmp_path / "go.json").write_bytes(msgspec.json.encode(plan))
        assert (tmp_path / "go.json").stat().st_size < 2_000
        drawn = asyncio.run(wait_for_go(tmp_path / "go.json")).sends_ms
        assert drawn == tuple(at for times in device.sends_ms.values() for at in times)
        assert len(drawn) > 50


LOAD = Segment("load", 0, 1_000, 1.0, 1.0)
ENDLESS = Segment("load", 0, 86_400_000, 1e9, 1e9)
SELDOM = Segment("load", 0, 4_000_000, 0.001, 0.001)  # few sends, even if damaged to last a year


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (Draw(Profile("poisson", (LOAD,)), "s", "0" * 64), "draws other times"),
        (Draw(Profile("poisson", (ENDLESS,)), "s", "0" * 64), "at most 20,000,000"),
    ],
)
def test_a_device_refuses_a_plan_that_it_cannot_draw(tmp_path: Path, draw: Draw, says: str) -> None:
    plan = Go(start_ns=0, enrol_at_ms=0, draws=(draw,), end_ms=1_000, timeout_ms=5_000)
    (tmp_path / "go.json").write_bytes(msgspec.json.encode(plan))
    with pytest.raises(Trouble, match=rf"go\.json: .*{says}"):
        asyncio.run(wait_for_go(tmp_path / "go.json"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_plan_is_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    draw = Draw.of(Profile("poisson", (SELDOM,)), "s")
    plan = Go(start_ns=0, enrol_at_ms=0, draws=(draw,), end_ms=1_000, timeout_ms=5_000)
    good, file = msgspec.json.encode(plan), tmp_path_factory.getbasetemp() / "damaged-go.json"
    at, cut = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 4))
    put = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"NaN", b"1e999", b"-1", b"[" * 5000, b"9" * 8])
    )
    file.write_bytes(good[:at] + put + good[at + cut :])
    with suppress(Trouble):
        asyncio.run(wait_for_go(file))


@pytest.mark.parametrize("per_s", [-1.0, float("nan"), float("inf")])
def test_a_segment_has_a_rate(per_s: float) -> None:
    with pytest.raises(ValueError, match="its rate is"):
        Segment("load", 0, 1_000, 1.0, per_s)


def test_a_schedule_with_unknown_fields_or_of_another_version_is_refused(tmp_path: Path) -> None:
    schedule = expand(load_campaign(written(tmp_path / "t.yaml", STEPS)), LOOPBACK, 1)
    stored = json.loads(schedule.canonical_json())
    sending = next(each for each in stored["trials"][0]["devices"] if "draws" in each)
    sending["draws"][0]["profile"]["more"] = 1
    with pytest.raises(ConfigurationError, match="more"):
        Schedule.from_json(json.dumps(stored))
    stored["schema"] = "testbed.schedule/2"
    with pytest.raises(ConfigurationError, match="make one with testbed plan --out"):
        Schedule.from_json(json.dumps(stored))
