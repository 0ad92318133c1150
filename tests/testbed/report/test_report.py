"""The derived files and the command testbed report."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import msgspec
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from testbed import cli
from testbed.bundle import Bundle, RunFolder
from testbed.checks.evidence import Evidence
from testbed.errors import ConfigurationError
from testbed.report.derive import derive_run, rebuild
from testbed.report.judging import Judging
from testbed.report.junit import junit
from testbed.report.measure import of_kind, operations
from testbed.report.results import replay_command
from testbed.report.run_plots import draw_run
from testbed.report.style import Plot
from testbed.report.summary import Summary
from testbed.report.table import render
from testbed.report.where import where_of
from tests.testbed.bundles import Story, edit
from tests.testbed.report.support import change, whole_of


def test_what_a_campaign_derives_as_it_goes_is_what_a_report_derives(run: RunFolder) -> None:
    """Figures of an only run are drawn once then. PDFs of an earlier report would be old."""
    of_paper = [run.path / f"plots/{name}.pdf" for name in ("timeline", "latency", "phases")]
    for path in of_paper:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    judging = Judging(run.bundle)
    assert judging.run(run) is None
    judging.whole()
    as_it_goes = derived_files(run.bundle)
    assert not any(path.exists() for path in of_paper)
    rebuild(run.bundle)
    assert derived_files(run.bundle) == as_it_goes


def test_a_trace_that_cannot_be_read_is_said_and_its_older_tables_and_figures_go(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """They outlived the traces that they were of. The words are the same wherever the bundle is."""
    run.write("raw/trace/r1.bin", b"junk")
    older = [run.write(f"derived/hops.{kind}", b"old") for kind in ("csv", "parquet")]
    older.append(run.write("plots/way-data.svg", b"old"))
    rebuild(run.bundle)
    assert not any(path.exists() for path in older)
    for folder in (run, run.bundle):
        notes = "".join(folder.read_json("summary.json")["notes"])
        page = folder.read("report.html").decode()
        for said in (notes, page):
            assert said.count("left out of the traces: r1.bin: not a trace of this version") == 1
            assert str(run.path) not in said
    assert cli.main(["report", str(run.bundle.path)]) == 0
    assert "note: left out of the traces: r1.bin" in capsys.readouterr().out


def test_a_flipped_bit_in_the_time_of_a_head_is_reported_with_all_its_tables(
    run: RunFolder, story: Story
) -> None:
    """Times on the chain are unsigned: the highest bit makes one that no signed number holds."""
    head = story.world.blocks[39].head
    edit(run.ledgers[0], 40, mend_sum=True, head=head[:52] + b"\x80" + head[53:])
    assert derive_run(run).summary.verdict == "failed"
    assert run.is_derived


def test_what_is_no_bundle_is_a_clear_error(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(ConfigurationError, match=r"manifest\.json"):
        rebuild(Bundle(tmp_path))
    (run.path / "genesis.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="bad-genesis"):
        derive_run(run)


# --- the derived files ----------------------------------------------------------------------------


def derived_files(bundle: Bundle) -> dict[str, bytes]:
    """All that is derived, in the bundle and in its runs."""
    paths = [path for path in bundle.path.rglob("*") if path.is_file()]
    apart = {"raw", "inputs", "manifest.json", "env", "genesis.json"}
    found = {str(path.relative_to(bundle.path)): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not set(Path(name).parts) & apart}


class Page(HTMLParser):
    """Every address that the page would fetch, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.words = ""
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_report_is_rebuilt_byte_by_byte_and_leaves_raw_alone(run: RunFolder) -> None:
    raw = {path: path.read_bytes() for path in run.raw.rglob("*") if path.is_file()}
    summary = rebuild(run.bundle, pdf=True)
    first = derived_files(run.bundle)
    tables = ("blocks", "executions", "operations", "phases", "faults", "results")
    plots = ("timeline", "latency", "phases")
    both = ("csv", "parquet")
    of_run = {f"derived/{name}.{kind}" for name in tables for kind in both}
    of_run |= {f"plots/{name}.{kind}" for name in plots for kind in ("svg", "pdf")}
    wanted = {f"{run.entry.path}/{name}" for name in (*of_run, "report.html", "summary.json")}
    wanted |= {f"derived/{name}.{kind}" for name in ("runs", "results") for kind in both}
    wanted |= {"report.html", "junit.xml", "summary.json"}
    assert first.keys() == wanted | {"README.md", "ro-crate-metadata.json", "SHA256SUMS"}
    for name in first:
        (run.bundle.path / name).unlink()
    rebuild(run.bundle, pdf=True)
    assert derived_files(run.bundle) == first
    assert {path: path.read_bytes() for path in run.raw.rglob("*") if path.is_file()} == raw

    # The summary reads back, and is what its schema says.
    read = msgspec.json.decode(first["summary.json"], type=Summary)
    assert read == summary
    jsonschema.validate(json.loads(first["summary.json"]), msgspec.json.schema(Summary))

    # The pages need nothing from anywhere, and say what they are.
    page = Page(first["report.html"].decode())
    of_the_run = Page(first[f"{run.entry.path}/report.html"].decode())
    other = f"{run.entry.path}/report.html"
    assert all(each.startswith("#") or each == other for each in page.addresses)
    assert all(each.startswith("#") or "report.html" in each for each in of_the_run.addresses)
    for each in (page, of_the_run):
        assert each.tags.count("svg") == 3
        for word in ("loopback: not a measurement of boards", "kill-primary", "passed", "--seed"):
            assert word in each.words

    # Tables agree with each other in both forms.
    for name in tables:
        rows = list(
            csv.DictReader(first[f"{run.entry.path}/derived/{name}.csv"].decode().split("\n"))
        )
        table = pq.read_table(run.path / f"derived/{name}.parquet")
        assert (len(rows), list(rows[0])) == (table.num_rows, table.column_names)
    assert pq.read_table(run.path / "derived/blocks.parquet").num_rows == summary.blocks

    of_run_suite, of_all = ET.fromstring(first["junit.xml"])
    for suite in (of_run_suite, of_all):
        assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert of_run_suite.get("tests") == str(len(summary.properties) + 3)


def drawn_of(evidence: Evidence) -> tuple[Plot, ...]:
    found = operations(evidence)
    return draw_run(evidence, found, where_of(evidence, found))


def test_figures_keep_their_colours_where_styles_are_forbidden(run: RunFolder) -> None:
    """CI servers show artifacts under a strict content security policy, as Jenkins does."""
    for name, _, svg in drawn_of(Evidence(run)):
        tree = ET.fromstring(svg)
        assert not [each for each in tree.iter() if "style" in each.attrib], name
        assert not [each for each in tree.iter() if each.tag.endswith("style")], name
        shapes = [each for each in tree.iter() if each.tag.endswith(("path", "use", "rect"))]
        assert any(each.get("fill", "none") != "none" for each in shapes)
        assert any("stroke-width" in each.attrib for each in tree.iter())
        assert tree.get("stroke-linejoin") == "round"


def test_names_in_junit_are_the_same_from_run_to_run(story: Story, tmp_path: Path) -> None:
    """A CI server follows a test case by its name."""
    found = []
    for number in range(2):
        run = story.copy(tmp_path / str(number))
        run.bundle.path.rename(tmp_path / f"2026112{number}T000000Z-quick-start-abcd")
        (run,) = Bundle(tmp_path / f"2026112{number}T000000Z-quick-start-abcd").runs
        manifest = run.bundle.manifest
        run.bundle.write_manifest(msgspec.structs.replace(manifest, run=run.bundle.name))
        top = ET.fromstring(junit(whole_of(run)))
        found.append([(each.tag, each.get("name"), each.get("classname")) for each in top.iter()])
    assert found[0] == found[1]


def test_the_boxes_of_a_phase_say_what_is_not_in_them(run: RunFolder) -> None:
    for path in (*run.raw.glob("phones*.jsonl"), *run.raw.glob("env*.jsonl")):
        change(
            run,
            path.stem,
            lambda found: [e | {"event": "late"} if e["event"] == "data" else e for e in found],
        )
    evidence = Evidence(run)
    drawn = {name: svg.decode() for name, _, svg in drawn_of(evidence)}
    for phase in evidence.schedule.phases:
        sent = of_kind(operations(evidence), "data", phase.name).censored
        assert not sent or f"(n = 0, {sent} unanswered)" in drawn["phases"]


def test_a_bundle_chooses_neither_what_is_written_over_nor_what_the_page_runs(
    run: RunFolder, tmp_path: Path
) -> None:
    """Somebody may send it. What is written follows no link of it, and an inventory may name things
    as it likes."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (run.path / ".summary.json.part").symlink_to(mine)
    (run.path / "report.html").symlink_to(mine)
    (run.bundle.path / "junit.xml").symlink_to(mine)
    path = run.bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["exclusions"] = {"pi05": "<script>alert(1)</script>"}
    path.write_text(json.dumps(manifest))
    rebuild(run.bundle)
    assert mine.read_text() == "precious"
    assert not (run.path / "summary.json").is_symlink()
    page = Page((run.bundle.path / "report.html").read_text())
    assert "script" not in page.tags
    assert "<script>" in page.words


def test_junit_distinguishes_failures_from_errors(run: RunFolder) -> None:
    """A property that failed is a failure; what could not be seen is an error."""
    change(run, "faults", lambda found: [e for e in found if e["step"] != "observed"])
    edit(run.ledgers[0], 40, mend_sum=True, signature=bytes(64))
    suite, _ = ET.fromstring(junit(whole_of(run)))
    tests = {each.get("name"): [child.tag for child in each] for each in suite}
    assert tests["validity"] == ["failure"]
    assert tests["kill-primary"] == ["error"]
    assert tests["replay"] == []


def test_junit_is_xml_whatever_a_host_answered(run: RunFolder) -> None:
    """Reasons quote what programs printed: colours of a terminal are no characters of XML."""
    run.bundle.update(0, state="failed", reason="\x1b[31mno\0 power\x1b[0m")
    suite, _ = ET.fromstring(junit(whole_of(run)))
    (error,) = suite.findall("testcase[@classname='run']/error")
    assert "no power" in re.sub("[^a-z ]", "", str(error.get("message")))


def test_the_command_that_runs_it_again_is_words_of_a_shell(run: RunFolder) -> None:
    argv = ("testbed", "run", "~/my lab/a.yaml", "-i", "~/$(reboot)/lab.yaml")
    manifest = msgspec.structs.replace(run.bundle.manifest, argv=argv)
    home = ["testbed", "run", "HOME/my lab/a.yaml", "-i", "HOME/$(reboot)/lab.yaml"]
    typed = replay_command(manifest)
    assert typed.count("~/") == 2
    assert " ~/" in typed, "not quoted, so that a shell knows whose home it is"
    assert shlex.split(typed.replace("~", "HOME"))[:5] == home


def test_the_table_on_the_terminal_has_what_people_look_for(run: RunFolder) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(whole_of(run), "runs/here"))
    text = console.export_text()
    for word in ("5 of 5", "passed", "admission", "kill-primary", "replay", "held", "runs/here"):
        assert word in text


# --- the command ----------------------------------------------------------------------------------


def test_report_rebuilds_and_answers_with_the_verdict(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options stand before or after the run: a subcommand beside RUN must not cost that. Figures
    that it names are those of runs, not those of attempts."""
    old = run.bundle.path / "attempts" / "0000-faults-1" / "plots"
    old.mkdir(parents=True)
    (old / "latency.pdf").write_bytes(b"")
    assert cli.main(["report", "--json", "--pdf", str(run.bundle.path)]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["verdict"] == "passed"
    assert f"figures: {run.path}/plots/*.pdf" in told.err
    assert "attempts" not in told.err
    change(run, "run", lambda found: found[:3])
    assert cli.main(["report", str(run.bundle.path), "--json"]) == 3
    told = capsys.readouterr()
    assert "cut short" in str(json.loads(told.out)["notes"])
    assert cli.main(["report", "nowhere"]) == 2
    capsys.readouterr()
    assert cli.main(["report"]) == 2
    assert "Missing argument 'RUN'" in capsys.readouterr().err
    assert cli.main(["report", str(run.bundle.path), "more"]) == 2


def test_report_prints_the_schema_of_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].startswith("https://json-schema.org")
    assert cli.main(["report", "schema", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: testbed report schema [OPTIONS]")


def test_times_say_how_far_from_the_plan_events_began_and_ended(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all events of a kind; an attack that the orchestrator did not note has none."""
    change(run, "faults", lambda found: [e | {"t": e["t"] + 5 * 10**6} for e in found])
    assert cli.main(["report", "times", str(run.bundle.path), "--json"]) == 0
    replay, crash = json.loads(capsys.readouterr().out)
    assert (crash["kind"], crash["events"]) == ("process.crash", 1)
    assert crash["applied"] == {"n": 1, "p50_ms": 7.0, "max_ms": 7.0}
    assert crash["healed"] == {"n": 1, "p50_ms": 5.0, "max_ms": 5.0}
    assert (replay["kind"], replay["events"], replay["applied"]["n"]) == ("device.replay", 3, 0)
