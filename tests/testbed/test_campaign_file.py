"""A campaign file is read as strictly as an inventory, down to the parameters of each fault."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import Field

from inventory.document import parse
from inventory.load import InvalidFile
from testbed.campaign.file import campaign_paths, campaign_schema, find_campaign, load_campaign
from testbed.campaign.injection import Judgement
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.campaign.quantities import Bound, Duration, Rate
from testbed.campaign.selectors import Selector
from testbed.checks.evidence import Evidence
from testbed.errors import ConfigurationError

CAMPAIGN = """\
campaign: crash-and-replay
seed: 20240611
trials: {count: 3, order: ABBA}
workload: {kind: enrol+data, rate: 20/s, arrivals: poisson, timeout: 5s}
phases: {warmup: 5s, baseline: 10s, attack: 20s, recover: 20s}
faults:
  - {id: crash, at: "5s±2s", for: 5s, do: process.crash, on: random(1)}
  - {id: replay, at: 6s, every: 1s, do: device.replay, source: captured}
guard: {max_faulty: f, dead_man: 30s}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
  liveness: {first_commit_after_heal: 10s}
  attack: {replay: {succeeded_upper95: 0.01}}
  degradation: {p99: "<=3x", goodput: ">=0.7x"}
"""

FALSE_DATA = "sensor.false-data, on: environment"

# What is changed in CAMPAIGN, where the loader points and what it says; True: the schema sees it.
BROKEN: list[tuple[str, str, str, str, bool]] = [
    ("process.crash", "process.crsh", "7:43: faults[0].do:", "mean process.crash?", True),
    ("do: device.replay, ", "", "faults[1].do:", "missing", True),
    ("on: random(1)", "om: random(1)", "7:58: faults[0].om:", "unknown key", True),
    (", on: random(1)", "", "faults[0].on:", "is missing", True),
    ("random(1)", "pi01", "faults[0].on:", "random(K|f|f+1)", True),
    ("random(1)", "cap(flying)", "faults[0].on:", "no such capability", False),
    ("process.crash, on: random(1)", FALSE_DATA, "faults[0].on:", "has no sensor", True),
    ("for: 5s, ", "", "faults[0].for:", "is missing", True),
    ("for: 5s", "for: 5", "faults[0].for:", "unit", True),
    ("for: 5s", "for: 5s±1s", "faults[0].for:", "fixed duration", True),
    ("for: 5s", "for: 15s", "faults[0]:", "ends 22 s into phase attack", False),
    ('"5s±2s"', '"1s±2s"', "faults[0].at:", "jitter exceeds", False),
    ("source: captured", "source: forged", "faults[1].source:", "captured", True),
    ("source: captured", "messages: [date]", "faults[1].messages[0]:", "mean data", True),
    ("source: captured", "in: heat", "faults[1].in:", "no phase heat", False),
    ("attack: 20s", "storm: 20s", "faults[0]:", "say in: PHASE", False),
    ("every: 1s, ", "until: 9s, ", "faults[1].until:", "without every", False),
    ("every: 1s", "every: 1s, until: 25s", "faults[1].until:", "beyond the end", False),
    ("id: replay", "id: crash", "faults[1].id:", "stands twice", False),
    ("{replay: {", "{crash: {", "expect.attack.crash:", "there are: replay", False),
    ("0.01", "1.5", "expect.attack.replay.succeeded_upper95:", "less than", True),
    ("20/s", "20", "4:36: workload.rate:", "unit", True),
    ("20/s", "0/s", "workload.rate:", "above 0", False),
    ("enrol+data", "enroll", "workload.kind:", "did you mean enrol?", True),
    ("warmup: 5s", "warmup: 0s", "phases.warmup:", "at least 1ms", False),
    ('"<=3x"', "3x", "expect.degradation.p99:", "<=3x", True),
    ("max_faulty: f", "max_faulty: g", "guard.max_faulty:", "is", True),
    ("{max_faulty: f, dead_man: 30s}", "off", "guard:", "none", True),
    ("exactly-once", "exactly-one", "expect.safety[2]:", "mean exactly-once", True),
    ("count: 3", "count: 0", "trials.count:", "greater", True),
    ("seed: 20240611", "seed: -1", "seed:", "greater", True),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign") / "campaign.yaml"


def mistakes(file: Path, text: str) -> list[str]:
    file.write_text(text)
    try:
        load_campaign(file)
    except InvalidFile as error:
        return error.lines()
    return []


def fits_schema(text: str) -> bool:
    return Draft202012Validator(campaign_schema()).is_valid(parse(text.encode()).data)


def test_a_full_campaign_is_read_into_typed_values(file: Path) -> None:
    file.write_text(CAMPAIGN)
    campaign = load_campaign(file)
    crash, replay = campaign.faults
    assert (crash.at.ms, crash.at.jitter_ms) == (5000, 2000)
    assert campaign.phase_of(crash) == campaign.phase_of(replay) == "attack"
    assert campaign.workload.rate.per_s == 20
    assert list(campaign.phases) == ["warmup", "baseline", "attack", "recover"]
    p99 = campaign.expect.degradation.p99
    assert p99 is not None
    assert p99.holds(2.9)
    assert not p99.holds(3.1)
    assert fits_schema(CAMPAIGN)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case[1])
def test_each_mistake_is_found_where_it_stands(
    file: Path, case: tuple[str, str, str, str, bool]
) -> None:
    old, new, where, says, shape = case
    assert old in CAMPAIGN
    text = CAMPAIGN.replace(old, new, 1)
    found = mistakes(file, text)
    assert any(where in line and says in line for line in found), found
    assert fits_schema(text) != shape


def test_all_mistakes_are_named_at_once_also_behind_a_wrong_kind(file: Path) -> None:
    """A misspelt `do` hides neither its own other keys nor what stands after it."""
    found = mistakes(
        file,
        "campaign: t\n"
        "workload: {kind: enrol+data, rate: 10}\n"
        "phases: {warmup: 3s, fault: 8s}\n"
        "faults:\n"
        "  - {id: a, at: 500, for: 2s, do: process.crsh, on: primry}\n"
        "  - {id: b, at: 500, do: nothing.like-it, whatever: 1}\n"
        "  - {id: c, at: 500ms, for: 20s, do: process.crash, on: primary}\n"
        "  - {id: c, at: 1s, for: 2s, do: process.crash, on: primary}\n",
    )
    places = [line.partition("campaign.yaml:")[2].split(": ")[1] for line in found]
    assert places == [
        "workload.rate",
        "faults[0].at",
        "faults[0].do",
        "faults[0].on",
        "faults[1].at",
        "faults[1].do",
        "faults[2]",
        "faults[3].id",
    ]
    assert "write 10/s" in found[0]
    assert "did you mean process.crash?" in found[2]


def test_guard_none_is_how_one_goes_beyond_the_bound(file: Path) -> None:
    text = CAMPAIGN.replace("{max_faulty: f, dead_man: 30s}", "none")
    assert mistakes(file, text) == []
    assert fits_schema(text)


@pytest.mark.parametrize("name", list(campaign_paths()))
def test_loader_and_schema_agree_on_every_shipped_campaign(name: str) -> None:
    campaign = load_campaign(find_campaign(name))
    assert campaign.campaign == name
    assert fits_schema(campaign_paths()[name].read_text())
    dumped = json.loads(campaign.model_dump_json(by_alias=True, exclude_none=True))
    Draft202012Validator(campaign_schema()).validate(dumped)


def test_an_unknown_campaign_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="quick-start"):
        find_campaign("quick-stat")


@pytest.mark.usefixtures("own_kinds")
def test_a_new_kind_is_checked_and_published_like_the_others(file: Path) -> None:
    class Shout(Params):
        loudness: int = Field(ge=1, le=11)

    made = (Mechanism("test", _never_made),)
    kind = Kind("device.shout", Shout, "attack", "device", "Shout.", made, _never_judged)
    register(kind)
    line = "do: device.replay, source: captured"
    assert mistakes(file, CAMPAIGN.replace(line, "do: device.shout, loudness: 11")) == []
    found = mistakes(file, CAMPAIGN.replace(line, "do: device.shout, loudness: 12"))
    assert any("faults[1].loudness" in problem for problem in found)
    assert "device.shout" in json.dumps(campaign_schema())


def _never_judged(evidence: Evidence, attack: str) -> Judgement:
    raise AssertionError("only registered")


def _never_made(_: object) -> NoReturn:
    raise AssertionError("a file is read without making attacks")


@pytest.mark.parametrize(
    ("text", "ms", "jitter_ms", "view_timeouts"),
    [
        ("5s", 5000, 0, 0),
        ("250ms", 250, 0, 0),
        ("1.5m", 90_000, 0, 0),
        ("1h", 3_600_000, 0, 0),
        ("5s±2s", 5000, 2000, 0),
        ("5s+-500ms", 5000, 500, 0),
        ("0.9*view_timeout", 0, 0, 0.9),
    ],
)
def test_durations(text: str, ms: float, jitter_ms: float, view_timeouts: float) -> None:
    assert Duration.parse(text) == Duration(text, ms, jitter_ms, view_timeouts)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "5s±", "1e3s", "5d", "99999999h", "٣s"]
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Duration.parse(text)


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused_with_a_value_error(text: str) -> None:
    for parser in (Duration.parse, Duration.parse_span, Rate.parse, Bound.parse, Selector.parse):
        with suppress(ValueError):
            parser(text)


@settings(max_examples=100)
@given(st.integers(0, len(CAMPAIGN) - 1), st.text(alphabet="{}[]:,-&*!#'\" \n\tax5\0±", max_size=4))
def test_a_damaged_campaign_is_loaded_or_an_invalid_file(file: Path, at: int, text: str) -> None:
    mistakes(file, CAMPAIGN[:at] + text + CAMPAIGN[at + 1 :])


def test_the_readmes_campaign_is_one(file: Path) -> None:
    readme = (Path(__file__).parents[2] / "testbed/campaign/README.md").read_text()
    section = readme.partition("## The campaign file")[2]
    example = section.partition("```yaml\n")[2].partition("```")[0]
    assert mistakes(file, example) == []


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("broken: [agreemint]", "agreemint"),
        ("may_skip: [nothing]", "nothing"),
        ("fault: {replay: {whole: 1s}}", "no fault has this id"),
        ("claims: [{claim: a, sentence: b, shown_by: [agreement, nobody]}]", "nobody"),
    ],
)
def test_an_expectation_of_what_is_not_there_is_named(file: Path, section: str, named: str) -> None:
    readme = (Path(__file__).parents[2] / "testbed/campaign/README.md").read_text()
    example = readme.partition("```yaml\n")[2].partition("```")[0]
    example = example.partition("expect:")[0] + f"expect: {{{section}}}\n"
    assert any(named in problem for problem in mistakes(file, example))
