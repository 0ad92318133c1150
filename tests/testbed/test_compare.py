"""Two results side by side: ratios with intervals, what differs, and a gate that is not blind."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testbed import cli
from testbed.bundle import Bundle
from testbed.campaign.schedule import Schedule
from testbed.errors import ConfigurationError
from testbed.report.compare import Comparison, FigurePair
from testbed.report.compare_plots import beside, draw_beside
from testbed.report.pairing import known, median, value_in_words
from tests.testbed.bundles import Story, lines, write_lines
from tests.testbed.campaign_bundles import campaign_of, rescheduled, slow_down, summarise
from tests.testbed.drawn import words


@pytest.fixture(scope="module")
def pair(story: Story, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """The same six trials twice; the second time data took twice as long under faults."""
    out = tmp_path_factory.mktemp("pair")
    faulty = {1: 2.0, 2: 2.0, 5: 2.0, 6: 2.0, 9: 2.0, 10: 2.0}
    one = campaign_of(story, out, 6, name="one")
    two = campaign_of(story, out, 6, name="two", slower=faulty)
    summarise(one)
    summarise(two, faulty)
    return one, two


def compared(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert cli.main(["compare", *words, "--json"]) == code
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def paths(pair: tuple[Bundle, Bundle]) -> tuple[str, str]:
    return str(pair[0].path), str(pair[1].path)


def test_equal_schedules_are_compared_run_by_run(
    pair: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    (comparison,) = compared(capsys, *paths(pair))["comparisons"]
    assert comparison["obstacles"] == []
    assert comparison["changes"] == []
    figures = {(each["arm"], each["name"]): each for each in comparison["figures"]}
    slow, same = figures["faults", "p99"], figures["baseline", "p99"]
    assert slow["paired"]
    assert [slow["ratio"][key] for key in ("n", "value", "lo", "hi")] == [6, 2.0, 2.0, 2.0]
    assert [same["ratio"][key] for key in ("value", "lo", "hi")] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        (["--max-ratio", "p99=2.1"], 0),
        (["--max-ratio", "p99=1.2"], 1),
        (["--max-ratio", "baseline.p99=1.2", "--min-ratio", "goodput=0.9"], 0),
        (["--min-ratio", "p50=2.5"], 1),
        (["--fail-on-change"], 0),
        (["--max-ratio", "speed=1"], 2),
        (["--max-ratio", "p99"], 2),
    ],
)
def test_a_gate_fails_only_when_it_is_exceeded(
    pair: tuple[Bundle, Bundle], gate: list[str], code: int
) -> None:
    assert cli.main(["compare", *paths(pair), *gate]) == code


def test_different_tests_are_not_compared_and_a_gate_then_fails(
    pair: tuple[Bundle, Bundle], story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = campaign_of(story, tmp_path, 1, name="other")
    schedule = (other.path / "inputs/schedule.json").read_text()
    assert '"campaign":"quick-start"' in schedule
    other.write(
        "inputs/schedule.json", schedule.replace('"campaign":"quick-start"', '"campaign":"x"')
    )
    summarise(other)
    (comparison,) = compared(capsys, str(pair[0].path), str(other.path))["comparisons"]
    assert "different campaigns" in comparison["obstacles"][0]
    assert comparison["figures"] == []
    assert cli.main(["compare", str(pair[0].path), str(other.path), "--max-ratio", "p99=9"]) == 1
    assert "cannot be compared" in capsys.readouterr().out


def test_what_was_made_differently_and_what_changed_is_said(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run each, another seed, another package, a property that no longer holds."""
    run, slow = story.copy(tmp_path / "a"), story.copy(tmp_path / "b")
    one, two = run.bundle, slow.bundle
    slow_down(slow, 3.0)
    manifest = two.manifest
    packages = {**manifest.packages, "uvloop": "0.1"}
    two.write_manifest(msgspec.structs.replace(manifest, seed=9, packages=packages))
    rescheduled(two, '"cooldown_ms":0', '"cooldown_ms":1')
    late = 10**12
    faults = slow.raw / "faults.jsonl"
    moved = [e | {"t": e["t"] + late * (e["step"] == "healed")} for e in lines(faults)]
    write_lines(faults, moved)
    summarise(one)
    summarise(two)
    (comparison,) = compared(capsys, str(one.path), str(two.path))["comparisons"]
    assert {each["what"] for each in comparison["differences"]} == {
        "seed",
        "schedule",
        "package uvloop",
    }
    schedule = next(each for each in comparison["differences"] if each["what"] == "schedule")
    assert [schedule["a"], schedule["b"]] == [
        Schedule.from_json(each.read("inputs/schedule.json")).schedule_hash[:12]
        for each in (one, two)
    ]
    changes = {each["name"]: (each["a"], each["b"]) for each in comparison["changes"]}
    assert changes == {
        "verdict": ("passed", "degraded"),
        "first-commit-after-heal": ("held", "broken"),
    }
    p99 = next(each for each in comparison["figures"] if each["name"] == "p99")
    assert not p99["paired"]
    assert (p99["ratio"]["value"], p99["ratio"]["lo"]) == (3.0, None), "one run has no interval"
    assert cli.main(["compare", str(one.path), str(two.path), "--fail-on-change"]) == 1
    said = capsys.readouterr().out
    for wanted in ("too few runs", "first-commit-after-heal", "uvloop", "FAILED"):
        assert wanted in said


def test_a_bundle_without_a_report_is_told_how_to_get_one(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(story.copy(tmp_path).bundle.path)
    assert cli.main(["compare", bundle, bundle]) == 2
    assert "testbed report" in capsys.readouterr().err


def test_other_expectations_are_another_campaign_file(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict that a looser bound gave is not made alike; the runs are still paired."""
    one, two = story.copy(tmp_path / "a").bundle, story.copy(tmp_path / "b").bundle
    rescheduled(two, '"succeeded_upper95":0.2', '"succeeded_upper95":0.9')
    for bundle in (one, two):
        summarise(bundle)
    (comparison,) = compared(capsys, str(one.path), str(two.path))["comparisons"]
    assert [each["what"] for each in comparison["differences"]] == ["expectations"]


def result(**values: tuple[float, float]) -> Comparison:
    return Comparison(
        a="a",
        b="b",
        obstacles=(),
        differences=(),
        changes=(),
        figures=tuple(
            FigurePair(
                name=name,
                unit="/s",
                arm="faults",
                a=median([known(a)]),
                b=median([known(b)]),
                ratio=median([known(1.0)]),
                paired=True,
            )
            for name, (a, b) in values.items()
        ),
    )


def test_a_zero_is_drawn_in_words_beside_the_logarithmic_axis() -> None:
    values = {"goodput": (5.0, 0.0), "p50": (3.0, 4.0), "stored": (0.0, 0.0)}
    said = words(lambda: beside(result(**values)))
    assert [each for each in said if each.endswith(": 0")] == ["A: 0", "B: 0", "B: 0"]


@pytest.mark.parametrize(
    "values",
    [
        {"goodput": (91.0, 91.0)},
        {"p50": (0.00123, 98_765_432.1)},
        {f"p{n}": (10.0 ** (n / 3 - 2), 1.04 * 10.0 ** (n / 3 - 2)) for n in range(20)},
        {"p50": (0.0, 1.5), "p99": (1.5, 0.0), "max": (1.5, 1.51), "consensus": (12_345.6, 9.9)},
    ],
)
def test_every_point_has_its_value_beside_it_and_none_hides_another(
    values: dict[str, tuple[float, float]],
) -> None:
    found = msgspec.structs.replace(result(**values), systems=("chain", "baseline"))
    said = words(lambda: beside(found))
    shown = [value_in_words(each) for pair in found.figures for each in (pair.a, pair.b)]
    assert not Counter(each for each in shown if each != "0") - Counter(said)


def test_results_without_a_figure_in_common_say_so(
    pair: tuple[Bundle, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one no run with faults counts, in the other none without."""
    copies = [Bundle(Path(shutil.copytree(each.path, tmp_path / each.name))) for each in pair]
    for bundle, arm in zip(copies, ("faults", "baseline"), strict=True):
        for entry in bundle.manifest.runs:
            if entry.arm == arm:
                bundle.update(entry.index, state="failed", reason="power")
    assert cli.main(["compare", *(str(each.path) for each in copies)]) == 0
    assert "no figure has a value in both results" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (msgspec.structs.replace(result(), obstacles=("different campaigns",)), "different camp"),
        (result(), "no figure has a value"),
        (result(goodput=(0.0, 0.0)), "every figure is 0"),
    ],
)
def test_where_there_is_nothing_to_draw_the_reason_is_printed(found: Comparison, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"nothing to draw: {why}"):
        draw_beside(found)


@pytest.mark.parametrize(
    ("option", "endings"),
    [("--figure", ".svg or .pdf"), ("--floods", ".svg or .pdf"), ("--page", ".html")],
)
def test_a_file_of_another_kind_is_refused_before_anything_is_read(
    option: str, endings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "nowhere", "nowhere", option, "figure"]) == 2
    assert f"{option} figure: the name must end with {endings}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--figure nowhere/a.pdf", "--page nowhere/a.html"])
def test_a_folder_that_does_not_exist_is_refused_before_anything_is_read(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "nothing", "nothing", *name.split()]) == 2
    assert f"{name}: there is no folder nowhere; make it" in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
def test_the_largest_and_least_numbers_of_a_summary_are_compared_and_drawn(
    pair: tuple[Bundle, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Bundle(shutil.copytree(pair[1].path, tmp_path / "odd"))
    rescheduled(odd, '"system":"chain"', '"system":"baseline"')  # so there are more figures
    for run, most in zip(odd.runs, cycle([True, False, False]), strict=False):
        text = run.read("summary.json").decode()
        text = re.sub(r": -?[0-9]+\.[0-9]+", f": {1e18 if most else 1e-300}", text)
        run.write("summary.json", re.sub(r": [1-9][0-9]*,", f": {2**63 - 1 if most else 0},", text))
    page = tmp_path / "page.html"
    words = [str(pair[0].path), str(odd.path), "--page", str(page), "--json"]
    assert cli.main(["compare", *words]) == 0
    assert "Infinity" not in capsys.readouterr().out
    assert "goodput" in page.read_text()


@pytest.mark.parametrize("option", ["--figure", "--page"])
def test_a_place_that_cannot_be_written_is_printed(
    option: str, pair: tuple[Bundle, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("a.svg" if option == "--figure" else "a.html")
    path.mkdir()
    assert cli.main(["compare", *paths(pair), option, str(path)]) == 2
    assert f"cannot write {path}: Is a directory" in capsys.readouterr().err
