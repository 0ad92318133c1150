"""A campaign becomes a concrete schedule before anything runs, the same for the same seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from inventory.load import load_lab, packaged
from inventory.model import Lab
from testbed import cli
from testbed.campaign.arrivals import stream
from testbed.campaign.book import Inputs, new_bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import campaign_paths, find_campaign, load_campaign
from testbed.campaign.kinds import Kind, Mechanism, Params, kinds, register, those
from testbed.campaign.quantities import DurationField, SpanField
from testbed.campaign.replay import runnable, stored_schedule
from testbed.campaign.resume import resumable
from testbed.campaign.schedule import Schedule
from testbed.campaign.selectors import Selector, SelectorField, resolve
from testbed.errors import ConfigurationError
from tests.testbed.kind_examples import campaign, event

LOOPBACK = load_lab()


class Cut(Params):
    """A kind of its own for these tests: two selectors, a delay, a repeatable cut."""

    from_: SelectorField = Field(alias="from")
    to: SelectorField
    by: DurationField
    for_: SpanField = Field(alias="for")


def _never_made(_: object) -> NoReturn:
    raise AssertionError("a schedule is made without making faults")


# One object for all tests: the model of a campaign file is built once for the same kinds.
CUT = Kind(
    "net.cut",
    Cut,
    "fault",
    "network",
    "Cut.",
    (Mechanism("test", _never_made),),
    impairs=those("from"),
)


@pytest.fixture(autouse=True)
def _cut(own_kinds: None) -> None:
    register(CUT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "campaign.yaml"


def planned(
    file: Path, faults: str = "", *, head: str = "", lab: Lab = LOOPBACK, seed: int = 1
) -> Schedule:
    file.write_text(
        "campaign: test\n"
        "workload: {kind: enrol+data, rate: 20/s}\n"
        "phases: {warmup: 5s, baseline: 10s, attack: 20s, recover: 5s}\n"
        f"{head}\nfaults: [{faults}]\n"
    )
    return expand(load_campaign(file), lab, seed)


CRASH = "{id: a, at: 1s, for: 5s, do: process.crash, on: replica(1)}"


def test_one_seed_gives_one_schedule_and_another_seed_another(file: Path) -> None:
    faults = '{id: a, at: "9s±5s", for: 5s, do: process.crash, on: random(1)}'
    first, again = planned(file, faults, seed=7), planned(file, faults, seed=7)
    assert first == again
    assert first.schedule_hash == again.schedule_hash
    hashes = {planned(file, faults, seed=seed).schedule_hash for seed in range(10)}
    assert len(hashes) == 10


def test_the_hash_is_the_same_in_another_process_under_another_hash_seed() -> None:
    code = (
        "from testbed.campaign.file import *; from testbed.campaign.expand import expand;"
        "from inventory.load import load_lab, packaged;"
        "print(expand(load_campaign(find_campaign('quick-start')), load_lab(), 3).schedule_hash)"
    )
    here = expand(load_campaign(find_campaign("quick-start")), LOOPBACK, 3).schedule_hash
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "99"},
        cwd=Path(__file__).parents[2],
    ).stdout.strip()  # fmt: skip
    assert there == here


def test_a_stored_schedule_is_read_back_identical(file: Path) -> None:
    schedule = planned(file, CRASH, head="trials: {count: 3, order: ABBA}")
    stored = schedule.canonical_json()
    again = Schedule.from_json(stored)
    assert again == schedule
    assert again.canonical_json() == stored
    turned = json.dumps(json.loads(stored, object_pairs_hook=lambda pairs: dict(reversed(pairs))))
    assert Schedule.from_json(turned).canonical_json() == stored
    assert again.schedule_hash == schedule.schedule_hash


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff", b'{"schema": "testbed.schedule/9"}']
)
def test_what_is_not_a_schedule_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="not a schedule"):
        Schedule.from_json(content)


@pytest.mark.parametrize("place", ["id", "fault", "campaign", "lab"])
@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", ".x", "x" * 65, "a\nb"])
def test_names_that_could_leave_a_folder_are_refused(file: Path, place: str, name: str) -> None:
    """Names of events and campaigns become parts of file names, here and on hosts."""
    plain = json.loads(planned(file, CRASH).canonical_json())
    where = plain if place in plain else plain["trials"][0]["events"][0]
    where[place] = name
    with pytest.raises(ConfigurationError, match="not a schedule"):
        Schedule.from_json(json.dumps(plain))


def test_offsets_count_from_the_phase_and_durations_are_whole_ms(file: Path) -> None:
    [event] = (
        planned(
            file,
            '{id: c, in: baseline, at: "2s±1s", for: 3s, do: net.cut, from: primary, to: random(1),'
            " by: 0.9*view_timeout}",
        )
        .trials[0]
        .events
    )
    assert 6000 <= event.at_ms <= 8000
    assert event.for_ms == 3000
    assert event.params == {"by_ms": 900}
    assert event.targets["from"] == ("primary",)
    assert event.targets["to"][0] in {"backup(1)", "backup(2)", "backup(3)"}


def test_every_repeats_until_the_end_of_the_phase(file: Path) -> None:
    events = planned(file, "{id: r, at: 6s, every: 5s, do: device.replay}").trials[0].events
    assert [(e.id, e.at_ms) for e in events] == [("r.1", 21000), ("r.2", 26000), ("r.3", 31000)]
    some = planned(file, "{id: r, at: 6s, every: 1s, until: 8s, do: device.replay}")
    assert len(some.trials[0].events) == 2


def test_an_occurrence_that_would_outlast_the_phase_is_not_begun(file: Path) -> None:
    cut = "do: net.cut, from: replica(0), to: all, by: 1s"
    events = planned(file, f"{{id: c, every: 6s, for: 3s, {cut}}}").trials[0].events
    assert [e.at_ms - 15000 for e in events] == [0, 6000, 12000]


def test_abba_pairs_share_their_workload_and_turn_their_order(file: Path) -> None:
    schedule = planned(file, CRASH, head="trials: {count: 3, order: ABBA}")
    arms = [(run.trial, run.arm[0]) for run in schedule.runs]
    assert arms == [(0, "b"), (0, "f"), (1, "f"), (1, "b"), (2, "b"), (2, "f")]
    assert len({trial.seed for trial in schedule.trials}) == 3
    assert len(planned(file, CRASH, head="trials: {count: 3}").runs) == 3


@settings(max_examples=25)
@given(seed=st.integers(0, 2**53 - 1), arrivals=st.sampled_from(["poisson", "uniform"]))
def test_sends_are_open_loop_in_order_within_their_phase_and_near_the_rate(
    tmp_path_factory: pytest.TempPathFactory, seed: int, arrivals: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "arrivals.yaml"
    file.write_text(
        f"campaign: t\nworkload: {{kind: enrol+data, rate: 50/s, arrivals: {arrivals}}}\n"
        "phases: {warmup: 4s, baseline: 20s}\n"
    )
    schedule = expand(load_campaign(file), LOOPBACK, seed)
    devices = schedule.trials[0].devices
    assert {d.name for d in devices} == {"env1", "env2", "phones-1", "phones-2", "phones-3"} | {
        "th01",
        "th02",
    }
    assert [d.enrol_at_ms is None for d in devices].count(True) == 2
    for device in devices:
        assert device.enrol_at_ms is None or device.enrol_at_ms < 2000
        sends = device.sends_ms
        assert all(2000 <= at < 4000 for at in sends.get("warmup", ()))
        assert all(4000 <= at < 24000 for at in sends.get("baseline", ()))
        assert all(a <= b for times in sends.values() for a, b in pairwise(times))
    times = {d.sends_ms["baseline"] for d in devices if d.sends_ms}
    assert arrivals == "uniform" or len(times) == 5, "each device draws its own times"
    total = sum(len(d.sends_ms.get("baseline", ())) for d in devices)
    assert 800 < total < 1200  # 1000 intended; 6 standard deviations of a Poisson count


def test_a_device_more_changes_no_other_devices_times_at_the_same_rate_each(file: Path) -> None:
    more = LOOPBACK.model_copy(
        update={"boards": {**LOOPBACK.boards, "th03": LOOPBACK.boards["th01"]}}
    )
    before = planned(file).trials[0].devices
    file.write_text(file.read_text().replace("20/s", "24/s"))  # 4/s each, of 5 and of 6
    after = {d.name: d for d in expand(load_campaign(file), more, 1).trials[0].devices}
    assert all(after[d.name].sends_ms == d.sends_ms for d in before)


def test_more_than_f_faulty_at_once_is_refused_naming_both(file: Path) -> None:
    other = "{id: b, at: 4s, for: 5s, do: process.crash, on: replica(2)}"
    with pytest.raises(ConfigurationError, match=r"r2, r3 \(by a and b\); at most 1 .*guard: none"):
        planned(file, f"{CRASH}, {other}")
    assert planned(file, f"{CRASH}, {other}", head="guard: none").max_faulty is None
    later = other.replace("4s", "6s")
    assert len(planned(file, f"{CRASH}, {later}").trials[0].events) == 2
    assert planned(file, f"{CRASH}, {other}", head="guard: {max_faulty: 2}").max_faulty == 2


def test_overlapping_events_on_the_primary_are_one_replica(file: Path) -> None:
    slow = "{id: s, for: 20s, do: net.cut, from: primary, to: all, by: 1ms}"
    crash = "{id: c, at: 1s, for: 5s, do: process.crash, on: primary}"
    assert len(planned(file, f"{slow}, {crash}").trials[0].events) == 2
    with pytest.raises(ConfigurationError, match=r"primary, r2"):
        planned(file, f"{slow}, {CRASH}")


def test_what_is_no_replica_does_not_count_as_faulty(file: Path) -> None:
    crash = "{id: g, at: 1s, for: 5s, do: process.crash, on: gateway}"
    assert len(planned(file, f"{CRASH}, {crash}").trials[0].events) == 2


def test_too_much_work_is_refused_before_it_is_drawn(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="lower rate"):
        planned(file, head="trials: {count: 10000}")
    with pytest.raises(ConfigurationError, match="raise every"):
        planned(
            file.with_name("b.yaml"),
            ",".join(f"{{id: r{i}, every: 1ms, do: device.replay}}" for i in range(6)),
        )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("primary", ("primary",)),
        ("backup(2)", ("backup(2)",)),
        ("all", ("r1", "r2", "r3", "r4")),
        ("replica(3)", ("r4",)),
        ("gateway", ("gw1-gateway",)),
        ("environment(1)", ("env2",)),
        ("mobile", ("phones-1", "phones-2", "phones-3")),
        ("board(th02)", ("th02",)),
        ("sensors", ("phones-1", "phones-2", "phones-3", "th01", "th02")),
        ("sensors(5)", ("phones-1", "phones-2", "phones-3", "th01", "th02")),
    ],
)
def test_selectors_name_parts_of_the_lab(text: str, names: tuple[str, ...]) -> None:
    assert resolve(Selector.parse(text), LOOPBACK, stream(1, 0, "x")) == names


@pytest.mark.parametrize(
    "text",
    [
        "backup(4)",
        "replica(4)",
        "random(5)",
        "cap(netem)",
        "board(th09)",
        "mobile(3)",
        "sensors(6)",
    ],
)
def test_parts_that_the_lab_lacks_are_refused(file: Path, text: str) -> None:
    fault = f"{{id: a, for: 5s, do: process.crash, on: {text}}}"
    with pytest.raises(ConfigurationError, match=r"a: on: "):
        planned(file, fault, head="guard: none")


def test_campaigns_use_the_lab_that_remains_after_quarantine(file: Path) -> None:
    first = load_lab(packaged("first-lab"))
    hosts = dict(first.hosts)
    hosts["pi02"] = hosts["pi02"].model_copy(update={"state": "quarantined", "reason": "hot"})
    lab = first.model_copy(update={"hosts": hosts})
    schedule = planned(file, lab=lab)
    assert schedule.replicas == ("pi01", "pi03", "pi04")
    assert "th01" not in {device.name for device in schedule.trials[0].devices}


def test_the_quick_start_kills_the_primary_replays_and_adds_enough_records() -> None:
    schedule = expand(load_campaign(find_campaign("quick-start")), LOOPBACK)
    trial = schedule.trials[0]
    assert 25_000 <= schedule.run_ms <= 30_000
    assert [e.kind for e in trial.events if e.targets.get("on") == ("primary",)] == [
        "process.crash"
    ]
    assert any(event.category == "attack" for event in trial.events)
    assert sum(device.enrol_at_ms is not None for device in trial.devices) == 5
    by_device = {d.name: sum(map(len, d.sends_ms.values())) for d in trial.devices if d.sends_ms}
    assert len(by_device) == 5
    assert min(by_device.values()) > 5
    assert sum(by_device.values()) > 60


# --- a stored schedule is run again ---------------------------------------------------------------


def test_a_saved_schedule_is_what_a_replay_runs(tmp_path: Path) -> None:
    """Byte by byte: nothing is drawn again, and what is expected comes with it."""
    saved = tmp_path / "s.json"
    assert cli.main(["plan", "quick-start", "--seed", "7", "--save", str(saved)]) == 0
    schedule = stored_schedule(saved, LOOPBACK)
    assert schedule == expand(load_campaign(find_campaign("quick-start")), LOOPBACK, 7)
    assert schedule.expect.attack["replay"].succeeded_upper95 == 0.2
    bundle = new_bundle(Inputs(LOOPBACK, schedule, None, str(saved)), tmp_path / "out")
    assert (bundle.path / "inputs/schedule.json").read_bytes() == saved.read_bytes()
    assert resumable(bundle, None).schedule == schedule


def test_a_schedule_is_not_run_on_another_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, other = tmp_path / "s.json", tmp_path / "lab.yaml"
    assert cli.main(["plan", "quick-start", "--save", str(saved)]) == 0
    text = packaged("loopback").read_text()
    other.write_text(text.replace("mobiles: 3", "mobiles: 2"))
    assert cli.main(["run", str(saved), "-i", str(other), "--out", str(tmp_path / "out")]) == 2
    assert "no device phones-3 on host phones" in capsys.readouterr().err
    assert cli.main(["run", str(saved), "--seed", "3", "--out", str(tmp_path / "out")]) == 2
    assert "has its seed" in capsys.readouterr().err
    saved.write_text(saved.read_text()[:-1])
    assert cli.main(["run", str(saved), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def drawn(name: str) -> Schedule:
    return expand(load_campaign(find_campaign(name)), LOOPBACK, 7)


@pytest.mark.parametrize("name", sorted(campaign_paths()))
def test_the_parameters_of_a_schedule_made_here_fit_their_kinds(name: str) -> None:
    assert runnable(drawn(name)).trials


def test_the_parameters_of_every_kind_fit_it(file: Path) -> None:
    file.write_text(
        campaign(
            [
                event(kind)
                for kind in kinds().values()
                if kind.category != "attack" and kind.params is not Cut
            ]
        )
    )
    assert len(runnable(expand(load_campaign(file), LOOPBACK, 7)).trials[0].events) > 30


@pytest.mark.parametrize(
    "spoil",
    [
        lambda params, name: params.pop(name),
        lambda params, name: params.update({name: {"$": ["x; reboot"]}}),
        lambda params, name: params.update({name: "x; reboot"}),
        lambda params, name: params.update({name: 1e300}),
        lambda params, name: params.update({name: -1}),
        lambda params, name: params.update({name: [None] * 10}),
        lambda params, name: params.update({f"{name}.": 1}),
    ],
    ids=["lost", "object", "text", "huge", "negative", "list", "added"],
)
def test_parameters_that_no_campaign_file_could_say_are_refused(
    spoil: Callable[[dict[str, object], str], object], tmp_path: Path
) -> None:
    """They become words of commands on hosts."""
    saved = tmp_path / "s.json"
    for index, name in ((0, "how"), (1, "copies"), (2, "by_ms")):
        plain = json.loads(drawn("devices-and-serial").canonical_json())
        events = plain["trials"][0]["events"]
        wanted = [each for each in events if each["kind"] == "serial.mitm"][index]
        spoil(wanted["params"], name)
        saved.write_text(json.dumps(plain))
        with pytest.raises(ConfigurationError, match=f"{wanted['id']} does serial.mitm: {name}"):
            stored_schedule(saved, LOOPBACK)


def test_a_kind_that_is_gone_is_not_run(tmp_path: Path) -> None:
    saved = tmp_path / "s.json"
    plain = json.loads(drawn("quick-start").canonical_json())
    plain["trials"][0]["events"][0]["kind"] = "process.gone"
    saved.write_text(json.dumps(plain))
    with pytest.raises(ConfigurationError, match=r"process\.gone: no such kind"):
        stored_schedule(saved, LOOPBACK)


def test_what_too_few_pairs_cannot_show_is_said_before_the_runs(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for count, warned in ((5, True), (6, False)):
        planned(
            file,
            CRASH,
            head=f"trials: {{count: {count}, order: ABBA}}\n"
            "expect: {degradation: {p99: '<=3x'}}",
        )
        for command in (["plan", str(file)], ["campaign", "check", str(file)]):
            assert cli.main(command) == 0
            assert ("5 pairs of runs cannot tell" in capsys.readouterr().err) is warned


def test_a_shipped_campaign_is_shown_to_copy_from(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["campaign", "show", "quick-start"]) == 0
    file.write_text(capsys.readouterr().out)
    assert load_campaign(file) == load_campaign(find_campaign("quick-start"))
