"""The page of several results: chain against baseline, and the number of replicas, in a browser."""

from __future__ import annotations

import dataclasses
import html
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from testbed import cli
from testbed.bundle import Bundle
from testbed.report.compare import SizeCurve, compare, curves_over_replicas, read_result
from testbed.report.compare_page import compare_page
from testbed.report.compare_plots import over_replicas
from testbed.report.pairing import between, known, median
from tests.testbed.browser import Browser, browser, check_page
from tests.testbed.bundles import Story
from tests.testbed.campaign_bundles import campaign_of, rescheduled, summarise
from tests.testbed.drawn import words

TRIALS = 6
SEVEN = ",".join(f'"r{n}"' for n in range(1, 8))
FOUR = ",".join(f'"r{n}"' for n in range(1, 5))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Bundle]:
    """The same campaign with four replicas, with seven that took twice as long, and on the other
    system."""
    story = Story(tmp_path_factory.mktemp("story"))
    out = tmp_path_factory.mktemp("results")
    made = {}
    for name in ("four", "seven", "provider"):
        slower = dict.fromkeys(range(2 * TRIALS), 2.0) if name == "seven" else {}
        made[name] = campaign_of(story, out, TRIALS, name=name, slower=slower)
        summarise(made[name], slower)
    rescheduled(made["seven"], f'"replicas":[{FOUR}]', f'"replicas":[{SEVEN}]')
    rescheduled(made["provider"], '"system":"chain"', '"system":"baseline"')
    odd = made["seven"].manifest
    packages = {**odd.packages, "<script>alert(1)</script>": "1"}
    made["seven"].write_manifest(msgspec.structs.replace(odd, packages=packages))
    return made


@pytest.fixture(scope="module")
def page(results: Mapping[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    bundles = [str(each.path) for each in results.values()]
    assert cli.main(["compare", *bundles, "--page", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.soak
def test_a_real_browser_shows_all_of_it(page: Path, shown: Browser, tmp_path: Path) -> None:
    """Two figures over the replicas, one of chain and baseline."""
    check_page(shown, page, tmp_path / "copy.html", figures=3)


def test_the_page_tells_of_every_result_and_what_cannot_be_compared(
    page: Path, shown: Browser
) -> None:
    shown.show(page)
    text = shown.value("document.body.innerText")
    rows = _rows(shown)
    assert ["four", "quick-start", "chain", "4", "loopback", "12 of 12", "passed"] in rows
    assert ["provider", "quick-start", "baseline", "4", "loopback", "12 of 12", "passed"] in rows
    assert "loopback: not a measurement of boards" in text
    assert "Figures cannot be compared: they have different numbers of replicas: 4 and 7" in text
    assert ["system", "chain", "baseline"] in rows
    assert ["agreement", "held", "held"] in rows, "all verdicts, as the systems differ"
    assert ["package <script>alert(1)</script>", "none", "1"] in rows
    same = "1x, pairs 1 to 1 (95 %: 1 to 1, n = 6)"
    (p99,) = (row for row in rows if row[:2] == ["p99 (ms)", "with faults, 6"])
    assert p99[2:] == [p99[2], p99[2], same]
    (over,) = (row for row in rows if row[0] == "data p99 (ms), with faults")
    value = float(over[1].split()[0])
    assert over[1:] == [f"{ms:.4g} [{ms:.4g}, {ms:.4g}]" for ms in (value, 2 * value)]


def _rows(shown: Browser) -> list[list[str]]:
    script = "[...document.querySelectorAll('tr')].map(r => [...r.cells].map(c => c.innerText))"
    found: list[list[str]] = shown.value(script)
    return found


def test_there_is_no_curve_of_results_that_differ_in_more_than_their_replicas(
    results: Mapping[str, Bundle],
) -> None:
    four, seven, provider = (read_result(each) for each in results.values())
    assert {each.points[0][0] for each in curves_over_replicas([seven, four])} == {4}
    assert curves_over_replicas([four, provider]) == ()
    assert curves_over_replicas([four, four, seven]) == (), "two with the same number"
    lab = msgspec.structs.replace(seven.manifest, stage="lab")
    assert curves_over_replicas([four, dataclasses.replace(seven, manifest=lab)]) == ()
    assert curves_over_replicas([four, dataclasses.replace(seven, counted={})]) == ()
    other = seven.schedule.model_copy(update={"phases": seven.schedule.phases[:2]})
    assert curves_over_replicas([four, dataclasses.replace(seven, schedule=other)]) == ()


@pytest.mark.parametrize("sizes", [(4, 7), (4, 7, 100), tuple(range(4, 32, 3))])
@pytest.mark.parametrize("spread", [1.0, 1.4])
def test_values_over_replicas_do_not_hide_each_other(sizes: tuple[int, ...], spread: float) -> None:
    """`spread` of the runs: one value each, or intervals."""

    def curve(of: str, name: str, scale: float) -> SizeCurve:
        points = tuple((n, median([known(scale * n * spread**k) for k in range(8)])) for n in sizes)
        unit = "/s" if of == "goodput" else "ms"
        return SizeCurve(of=of, name=name, unit=unit, arm="faults", points=points)

    curves = [
        curve(of, name, scale)
        for of in ("admission", "consensus", "data")
        for name, scale in (("p50", 12.345), ("p99", 123.45))
    ]
    said = words(lambda: over_replicas([*curves, curve("goodput", "goodput", 1.0)]))
    assert {str(n) for n in sizes} <= set(said)


@pytest.mark.parametrize("without", [(4, 7, 10), (7,), (4, 10)])
@pytest.mark.filterwarnings("error")
def test_what_was_never_answered_has_its_value_without_a_mark(without: tuple[int, ...]) -> None:
    """It took at least 0 ms, which stands on no logarithmic axis."""

    def curve(of: str, name: str, scale: float) -> SizeCurve:
        never, some = median([between(0.0)] * 6), median([known(scale)] * 6)
        points = tuple((n, never if n in without else some) for n in (4, 7, 10))
        return SizeCurve(of=of, name=name, unit="ms", arm="faults", points=points)

    curves = [curve("admission", "p50", 5.25), curve("admission", "p99", 75)]
    said = Counter(words(lambda: over_replicas([*curves, curve("consensus", "p50", 3.125)])))
    assert said["≥ 0"] == 3 * len(without)
    assert said["5.25"] == said["75"] == said["3.125"] == 3 - len(without)


def test_the_same_results_give_the_same_bytes(
    results: Mapping[str, Bundle], page: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.html"
    bundles = [str(each.path) for each in results.values()]
    assert cli.main(["compare", *bundles, "--page", str(again)]) == 0
    assert again.read_bytes() == page.read_bytes()


def test_the_command_of_a_page_takes_each_name_as_one_word(
    results: Mapping[str, Bundle], tmp_path: Path
) -> None:
    """A bundle is called what its maker likes; a reader types the command."""
    named = Bundle(Path(shutil.copytree(results["four"].path, tmp_path / "a; touch 'x' <b>")))
    one, other = read_result(results["four"]), read_result(named)
    (found,) = re.findall("<pre>(.*)</pre>", compare_page([one, other], [compare(one, other)]))
    words = shlex.split(html.unescape(found))
    assert words == ["testbed", "compare", "four", named.name, "--page", "FILE.html"]
