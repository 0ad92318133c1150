"""Several runs in one report: the run is the unit; nothing is dropped, nothing invalid averaged."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import msgspec
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from testbed import cli
from testbed.bundle import Bundle, RunFolder
from testbed.report.derive import rebuild
from testbed.report.over_runs import over_runs
from testbed.report.page import page
from testbed.report.plots import draw
from testbed.report.summary import Figure, RunRow, Summary
from tests.testbed.bundles import Story, lines, write_lines
from tests.testbed.campaign_bundles import campaign_of, rescheduled, summarise

SIX_PAIRS = {1: 2.0, 2: 3.0, 5: 2.0, 6: 4.0, 9: 2.5, 10: 3.0}  # runs with faults in ABBA order


def figure(summary: Summary, name: str) -> Figure:
    return next(each for each in summary.figures if each.name == name)


def files(bundle: Bundle) -> dict[str, bytes]:
    """All that is derived, in the campaign and in its runs."""
    paths = [path for path in bundle.path.rglob("*") if path.is_file()]
    apart = ("raw", "inputs", "manifest.json", "env", "genesis.json")
    found = {str(path.relative_to(bundle.path)): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not set(Path(name).parts) & set(apart)}


def test_ratios_pair_the_runs_of_a_trial_and_have_an_interval(story: Story, tmp_path: Path) -> None:
    """Six pairs with known factors: their median, and the extremes as the 95 % interval."""
    bundle = campaign_of(story, tmp_path, 6, slower=SIX_PAIRS)
    summarise(bundle, SIX_PAIRS)
    summary = over_runs(bundle)
    assert summary.verdict == "passed", summary.notes
    assert (summary.counts.planned, summary.counts.counted) == (12, 12)
    ratio = figure(summary, "p50").ratio
    assert ratio is not None
    assert (ratio.n, ratio.lo, ratio.hi) == (6, 2.0, 4.0)
    assert ratio.value == pytest.approx((2.5 * 3) ** 0.5, rel=1e-4)
    goodput = figure(summary, "goodput").ratio
    assert goodput is not None
    assert goodput.value == 1.0
    (attack,) = summary.attacks
    one = next(row for row in summary.runs if row.arm == "faults")
    assert one.summary is not None
    assert (attack.runs, attack.distinct) == (6, 6 * one.summary.attacks[0].distinct)
    assert attack.upper95 == pytest.approx(1 - 0.05 ** (1 / attack.distinct), abs=1e-6)
    assert {each.held for each in summary.properties} == {True}


def test_a_report_of_runs_is_rebuilt_byte_by_byte_with_all_its_parts(
    story: Story, tmp_path: Path
) -> None:
    bundle = campaign_of(story, tmp_path, 1, slower={1: 2.0})
    summary = rebuild(bundle)
    first = files(bundle)
    for name in first:
        (bundle.path / name).unlink()
    rebuild(bundle)
    assert files(bundle) == first

    assert msgspec.json.decode(first["summary.json"], type=Summary) == summary
    jsonschema.validate(json.loads(first["summary.json"]), msgspec.json.schema(Summary))
    rows = list(csv.DictReader(first["derived/runs.csv"].decode().splitlines()))
    assert [(row["arm"], row["verdict"]) for row in rows] == [
        ("baseline", "passed"),
        ("faults", "passed"),
    ]
    results = pq.read_table(bundle.path / "derived/results.parquet").to_pylist()
    assert {row["index"] for row in results} == {1}
    assert {row["p50_base_ms"] for row in results} == {40.0}
    assert {row["p50_attack_ms"] for row in results} == {80.0}
    assert all(row["replay"].endswith("--only 1") for row in results)
    page = first["report.html"].decode()
    assert 'href="run/0001-faults/report.html"' in page
    assert page.count("<svg") == 3
    assert "run/0001-faults/plots/latency.svg" in first
    draw(bundle, summary, pdf=True)
    assert (bundle.path / "plots/runs.pdf").exists()


def test_every_property_of_every_run_is_a_test_case(story: Story, tmp_path: Path) -> None:
    """Infrastructure is an error: a run that was not made, and one that says nothing."""
    bundle = campaign_of(story, tmp_path, 2)
    spoilt = bundle.runs[1]
    faults = spoilt.raw / "faults.jsonl"
    write_lines(faults, [each for each in lines(faults) if each["step"] != "observed"])
    bundle.update(2, state="failed", reason="r3 is not ready")
    summary = rebuild(bundle)
    suites = {suite.get("name"): suite for suite in ET.fromstring(files(bundle)["junit.xml"])}
    assert list(suites) == [*(row.path for row in summary.runs), "all runs"]
    whole = suites["run/0000-baseline"]
    assert {"agreement", "validity", "durability"} <= {case.get("name") for case in whole}
    assert (whole.get("errors"), whole.get("failures")) == ("0", "0")
    assert int(suites["run/0001-faults"].get("errors", "0")) >= 1
    (missing,) = suites["run/0002-faults"].findall("testcase[@classname='run']")
    assert [(child.tag, child.get("message")) for child in missing] == [
        ("error", "r3 is not ready")
    ]


def test_a_campaign_is_not_judged_by_looser_expectations(story: Story, tmp_path: Path) -> None:
    bundle = campaign_of(story, tmp_path, 6, expect="  degradation: {p50: '<=3x'}\n")
    summarise(bundle)
    assert over_runs(bundle).verdict == "passed"
    for name in ("campaign.yaml", "schedule.json"):
        path = bundle.path / "inputs" / name
        text = path.read_text()
        path.write_text(text.replace("<=3x", "<=9x"))
        summary = over_runs(bundle)
        assert summary.verdict == "invalid"
        assert f"inputs/{name} is not what these runs were made from" in summary.notes
        path.write_text(text)


def test_what_is_invalid_or_missing_is_listed_and_in_no_figure(
    story: Story, tmp_path: Path
) -> None:
    bundle = campaign_of(story, tmp_path, 3, slower={1: 2.0, 2: 1000.0, 5: 2.0})
    spoilt = bundle.runs[2]
    write_lines(spoilt.raw / "attacks.jsonl", [])
    bundle.update(4, state="running")
    summarise(bundle, {2: 1000.0, 1: 2.0, 5: 2.0})
    summary = over_runs(bundle)
    assert summary.verdict == "partial"
    reasons = {row.index: row.reason for row in summary.runs if not row.counted}
    assert set(reasons) == {2, 4}
    assert "attack replay" in str(reasons[2])
    assert "cut off" in str(reasons[4])
    ratio = figure(summary, "max").ratio
    assert ratio is not None
    assert (ratio.n, ratio.value, ratio.lo) == (1, 2.0, None), "one whole pair is left"
    assert figure(summary, "max").faults.value == 80.0, "the invalid run is in no median"


def answers_never_came(run: RunFolder) -> None:
    """The devices waited for every reading in vain."""
    for path in run.raw.glob("*.jsonl"):
        events = [
            each | {"event": "late"} if each.get("event") == "data" else each
            for each in lines(path)
        ]
        write_lines(path, events)


def test_what_was_never_answered_counts_as_longer_than_its_timeout(
    story: Story, tmp_path: Path
) -> None:
    """Not dropped: in runs with faults no reading came back, so no ratio has an upper end."""
    expect = "  degradation: {p99: '<=3x', goodput: '>=0.9x'}\n"
    bundle = campaign_of(story, tmp_path, 6, expect=expect)
    for faulty in (run for run in bundle.runs if run.entry.arm == "faults"):
        answers_never_came(faulty)
    summarise(bundle)
    summary = over_runs(bundle)
    ratio = figure(summary, "p99").ratio
    assert ratio is not None
    assert ratio.at_least
    assert (ratio.value, ratio.censored) == (5000 / 40, 6)
    held = {each.name: each.held for each in summary.properties}
    assert held["degradation-p99"] is False, "at least 125 times is more than 3 times"
    assert held["degradation-goodput"] is False
    assert summary.verdict == "degraded"


def test_who_was_never_admitted_is_in_the_median_of_admission(story: Story, tmp_path: Path) -> None:
    """Three of five were not: their times are longer than those of the two who were."""
    bundle = campaign_of(story, tmp_path, 1)
    (faulty,) = [run for run in bundle.runs if run.entry.arm == "faults"]
    paths = [p for p in faulty.raw.glob("*.jsonl") if p.stem.startswith(("env", "phones"))]
    for path in paths[:3]:
        write_lines(path, [each for each in lines(path) if each["event"] != "admitted"])
    summarise(bundle)
    found = figure(over_runs(bundle), "admission")
    assert (found.baseline.value, found.baseline.at_least) == (40.0, False)
    assert (found.faults.value, found.faults.at_least) == (40.0, True)
    assert found.faults.censored == 1
    for path in paths[3:]:
        write_lines(path, [each for each in lines(path) if each["event"] != "admitted"])
    summarise(bundle)
    found = figure(over_runs(bundle), "admission")
    assert (found.faults.n, found.faults.at_least) == (1, True), "not one admitted is not no run"


def test_a_workload_that_sends_no_data_has_no_figures_of_data(story: Story, tmp_path: Path) -> None:
    """Nothing sent is neither a goodput of 0 nor an answer that took longer than its timeout."""
    bundle = campaign_of(story, tmp_path, 1, expect="  degradation: {goodput: '>=0.9x'}\n")
    for path in bundle.path.rglob("raw/*.jsonl"):
        kept = [each for each in lines(path) if each.get("event") not in ("data", "late")]
        write_lines(path, kept)
    path = bundle.path / "inputs/schedule.json"
    path.write_bytes(path.read_bytes().replace(b'"enrol+data"', b'"enrol"'))
    digest = sha256(path.read_bytes()).hexdigest()
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, schedule_sha256=digest))
    summarise(bundle)
    summary = over_runs(bundle)
    assert {figure(summary, name).faults.n for name in ("goodput", "p50", "p99", "max")} == {0}
    assert figure(summary, "goodput").ratio is None
    found = next(each for each in summary.properties if each.name == "degradation-goodput")
    assert found.held is None
    drawn = {name: svg for name, _, svg in draw(bundle, summary)}
    assert b"<!-- 5000 -->" not in drawn["runs"], "no mark at the timeout"


@pytest.mark.parametrize(("slower", "held"), [(2.0, True), (4.0, False)])
def test_the_campaigns_bound_on_degradation_is_judged_over_pairs(
    story: Story, tmp_path: Path, slower: float, held: bool
) -> None:
    expect = "  degradation: {p50: '<=3x'}\n"
    factors = dict.fromkeys(SIX_PAIRS, slower)
    bundle = campaign_of(story, tmp_path, 6, slower=factors, expect=expect)
    summarise(bundle, factors)
    summary = over_runs(bundle)
    found = next(each for each in summary.properties if each.name == "degradation-p50")
    assert found.held is held
    assert "<=3x wanted" in found.detail
    assert summary.verdict == ("passed" if held else "degraded")


def test_a_ratio_that_is_only_known_from_below_breaks_no_lower_bound(
    story: Story, tmp_path: Path
) -> None:
    """No goodput in the baseline: the ratio may be anything, so that nothing is judged."""
    bundle = campaign_of(story, tmp_path, 6, expect="  degradation: {goodput: '>=0.9x'}\n")
    for base in (run for run in bundle.runs if run.entry.arm == "baseline"):
        answers_never_came(base)
    summarise(bundle)
    summary = over_runs(bundle)
    ratio = figure(summary, "goodput").ratio
    assert ratio is not None
    assert (ratio.value, ratio.at_least) == (0.0, True)
    found = next(each for each in summary.properties if each.name == "degradation-goodput")
    assert found.held is None
    assert summary.verdict == "partial"


def test_too_few_pairs_give_no_ratio(story: Story, tmp_path: Path) -> None:
    """Five pairs bear no interval: neither a good median nor a bad one decides anything."""
    factors = dict.fromkeys(list(SIX_PAIRS)[:5], 9.0)
    expect = "  degradation: {p50: '<=3x', goodput: '>=0.9x'}\n"
    bundle = campaign_of(story, tmp_path, 5, slower=factors, expect=expect)
    summarise(bundle, factors)
    summary = over_runs(bundle)
    found = [each for each in summary.properties if each.name.startswith("degradation")]
    assert [each.held for each in found] == [None, None]
    assert all("cannot be told from 5 pairs" in each.detail for each in found)
    assert summary.verdict == "partial"


def never_recovered(row: RunRow) -> RunRow:
    assert row.summary is not None
    faults = tuple(msgspec.structs.replace(each, recovery_ms=None) for each in row.summary.faults)
    return msgspec.structs.replace(row, summary=msgspec.structs.replace(row.summary, faults=faults))


def test_runs_that_never_recovered_are_in_the_figure_of_recovery(
    story: Story, tmp_path: Path
) -> None:
    """Censored, not dropped: without them the figure shows the good half only."""
    bundle = campaign_of(story, tmp_path, 2)
    summarise(bundle)
    summary = over_runs(bundle)
    rows = tuple(never_recovered(row) if row.index == 1 else row for row in summary.runs)
    spoilt = msgspec.structs.replace(summary, runs=rows)
    drawn = {name: svg for name, _, svg in draw(bundle, summary)}
    assert b"<!-- never" not in drawn["recovery"]
    drawn = {name: svg for name, _, svg in draw(bundle, spoilt)}
    assert b"<!-- never (1) -->" in drawn["recovery"]
    none = tuple(map(never_recovered, rows))
    drawn = {n: s for n, _, s in draw(bundle, msgspec.structs.replace(spoilt, runs=none))}
    assert b"<!-- never (2) -->" in drawn["recovery"]


def test_every_ratio_has_its_value_beside_it(story: Story, tmp_path: Path) -> None:
    bundle = campaign_of(story, tmp_path, 1, slower={1: 2.5})
    summarise(bundle, {1: 2.5})
    drawn = {name: svg for name, _, svg in draw(bundle, over_runs(bundle))}
    assert drawn["ratios"].count(b"<!-- 2.5 -->") == 3, "of p50, p99 and max"


def test_a_figure_that_can_no_longer_be_drawn_does_not_stay(story: Story, tmp_path: Path) -> None:
    """Made again with other runs invalid, an old ratio would state what no run shows any more."""
    bundle = campaign_of(story, tmp_path, 1)
    summarise(bundle)
    summary = over_runs(bundle)
    draw(bundle, summary, pdf=True)
    assert (bundle.path / "plots/ratios.pdf").exists()
    drawn = draw(bundle, msgspec.structs.replace(summary, figures=()))
    assert {path.stem for path in (bundle.path / "plots").iterdir()} == {name for name, *_ in drawn}
    draw(bundle, msgspec.structs.replace(summary, runs=(), figures=()))
    assert list((bundle.path / "plots").iterdir()) == []


def test_a_bound_is_never_printed_as_nothing(story: Story, tmp_path: Path) -> None:
    """A hundred thousand trials bound the rate at 0.00003, not at 0."""
    bundle = campaign_of(story, tmp_path, 1)
    summarise(bundle)
    summary = over_runs(bundle)
    (attack,) = summary.attacks
    attacks = (msgspec.structs.replace(attack, upper95=0.00003),)
    made = page(bundle, msgspec.structs.replace(summary, attacks=attacks), ())
    assert "0.0000<" not in made
    assert "3e-05" in made


def test_too_few_trials_over_all_runs_leave_the_campaign_partial(
    story: Story, tmp_path: Path
) -> None:
    """The bound is one of the campaign: a run alone need not reach it, all together must."""
    bundle = campaign_of(story, tmp_path, 1)
    rescheduled(bundle, '"succeeded_upper95":0.2', '"succeeded_upper95":0.0001')
    summarise(bundle)
    summary = over_runs(bundle)
    verdicts = [row.summary.verdict for row in summary.runs if row.summary]
    assert verdicts == ["passed", "passed"]
    assert [attack.verdict for attack in summary.attacks] == ["invalid"]
    assert summary.verdict == "partial"
    assert any("too few" in note for note in summary.notes)


def test_runs_that_were_made_and_not_judged_are_judged_by_resume(
    story: Story, tmp_path: Path
) -> None:
    """Killed while it checked: before a summary, between summary and tables, over all runs."""
    bundle = campaign_of(story, tmp_path, 1)
    first, second = bundle.runs
    for path in second.ledgers:
        path.unlink()
    assert cli.main(["resume", str(bundle.path)]) == 4
    assert [entry.state for entry in bundle.manifest.runs] == ["done", "invalid"]
    assert over_runs(bundle).counts.counted == 1
    assert cli.main(["resume", str(bundle.path)]) == 0, "nothing to do"
    for name in ("derived/results.parquet", "report.html"):
        (first.path / name).unlink()
    assert cli.main(["resume", str(bundle.path)]) == 4
    (bundle.path / "report.html").unlink()
    assert cli.main(["resume", str(bundle.path)]) == 4


def test_one_run_that_was_not_judged_is_no_success(story: Story, tmp_path: Path) -> None:
    run = story.copy(tmp_path)
    for path in run.ledgers:
        path.unlink()
    assert cli.main(["resume", str(run.bundle.path)]) == 3
    assert json.loads((run.bundle.path / "summary.json").read_text())["verdict"] == "invalid"


def test_neither_a_run_nor_an_old_bundle_is_resumed(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = campaign_of(story, tmp_path, 1).path / "run/0001-faults"
    assert cli.main(["resume", str(run)]) == 2
    assert f"name the bundle: {run.parent.parent}" in capsys.readouterr().err
    old = story.copy(tmp_path).bundle
    manifest = old.read_json("manifest.json") | {"schema": "testbed.manifest/1"}
    old.write_json("manifest.json", manifest)
    assert cli.main(["resume", str(old.path)]) == 2
    assert "made by another version of the testbed" in capsys.readouterr().err


def test_a_manifest_from_elsewhere_cannot_have_us_write_outside_its_bundle(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = campaign_of(story, tmp_path, 1)
    outside = (bundle.path / "run/0001-faults").rename(tmp_path / "outside")
    before = sorted(outside.rglob("*"))
    manifest = bundle.read_json("manifest.json")
    manifest["runs"][1]["arm"] = "../../outside"
    bundle.write_json("manifest.json", manifest)
    assert cli.main(["report", str(bundle.path)]) == 2
    assert "manifest.json" in capsys.readouterr().err
    assert sorted(outside.rglob("*")) == before
