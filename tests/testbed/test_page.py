"""The page of a result: where the time goes, and how a real browser shows it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from gateway.hops import Hop
from nodes.trace_file import TraceFile
from testbed.bundle import RunFolder
from testbed.checks.evidence import Evidence
from testbed.report.derive import rebuild
from testbed.report.machines import machines_of
from testbed.report.measure import operations
from testbed.report.page import run_page
from testbed.report.run_plots import draw_run
from testbed.report.where import where_of
from tests.testbed.browser import browser, check_page
from tests.testbed.bundles import START_NS, Story, judged, reschedule, write_lines
from tests.testbed.bundles import lines as read_jsonl

MS = 1_000_000
DEVICE = (Hop.INTENDED, Hop.SENT, Hop.ANSWERED)
GATEWAY = (Hop.GATEWAY_IN, Hop.ADMITTED, Hop.DURABLE, Hop.GATEWAY_OUT, Hop.RECEIPT)
BLOCK = (Hop.PREPARED, Hop.SYNCED, Hop.COMMIT_SENT, Hop.COMMITTED, Hop.EXECUTED, Hop.SEALED)


def traced(run: RunFolder) -> RunFolder:
    """The run with traces: hop number N is N ms after the operation was due."""
    folder = run.raw / "trace"
    folder.mkdir()
    files: dict[str, TraceFile] = {}

    def of(process: str) -> TraceFile:
        if process not in files:
            files[process] = TraceFile(folder / f"{process}.bin")
        return files[process]

    evidence = Evidence(run)
    replicas = evidence.schedule.replicas
    for each in operations(evidence):
        if each.request is None or each.height is None:
            continue
        due_ns = round((each.intended_ms + 10_000) * MS)
        for process, hops in (
            (each.node, DEVICE),
            ("gateway", GATEWAY),
            (replicas[0], (Hop.ARRIVED, Hop.VERIFIED)),
        ):
            for hop in hops:
                of(process).request(hop, bytes.fromhex(each.request), due_ns + hop * MS)
        for name in replicas:
            first = Hop.PROPOSED if name == replicas[0] else Hop.PRE_PREPARED
            for hop in (first, *BLOCK):
                of(name).block(hop, each.height, due_ns + hop * MS)
    for file in files.values():
        file.close()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose report is made."""
    made = traced(Story(tmp_path_factory.mktemp("story")).run)
    rebuild(made.bundle)
    return made


def rows(run: RunFolder, table: str) -> list[dict[str, str]]:
    with (run.path / f"derived/{table}.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_step_of_every_operation_is_in_the_tables(run: RunFolder) -> None:
    answered = [each for each in rows(run, "operations") if each["request"]]
    steps = rows(run, "hops")
    assert {each["request"] for each in steps} == {each["request"] for each in answered}
    for hop, took_ms in (("sent", 1.0), ("gateway-in", 3.0), ("arrived", 1.0)):
        assert {float(each["took_ms"]) for each in steps if each["hop"] == hop} == {took_ms}
    in_order = [hop for _, hop in sorted({(int(each["step"]), each["hop"]) for each in steps})]
    assert in_order[:3] == ["sent", "gateway-in", "admitted"]
    assert in_order[-3:] == ["sealed", "receipt", "answered"]
    synced = [each for each in steps if each["hop"] == "synced"]
    assert {(each["view"], each["epoch"], each["state"]) for each in synced} == {
        ("0", "0", "known")
    }
    replicas = {each["replica"] for each in rows(run, "block_hops")}
    assert replicas == set(Evidence(run).schedule.replicas)


def test_the_page_says_where_the_time_goes(run: RunFolder) -> None:
    page = (run.path / "report.html").read_text()
    assert "<h2>Where the time goes</h2>" in page
    assert page.count("<figure>") == 6
    assert "of one request in 1." in page


def test_without_traces_the_page_says_nothing_of_them(tmp_path: Path) -> None:
    run = Story(tmp_path).run
    assert "Where the time goes" not in undrawn(run)


def test_what_is_no_trace_is_named_on_the_page(run: RunFolder) -> None:
    bad = run.raw / "trace" / "zz.bin"
    bad.write_bytes(b"<script>alert(1)</script>")
    try:
        page = undrawn(run)
    finally:
        bad.unlink()
    assert "zz.bin: not a trace" in page
    assert "<script" not in page


def undrawn(run: RunFolder) -> str:
    """The page without its figures: they take the most time."""
    evidence = Evidence(run)
    where = where_of(evidence, operations(evidence))
    summary = judged(run, where.problems)
    return run_page(evidence, summary, (), where, machines_of(evidence))


def test_names_of_many_phases_do_not_run_into_each_other(tmp_path: Path) -> None:
    """Slanted if they would."""
    run = Story(tmp_path).run
    drawn = []
    for count in (4, 12):
        step_ms = 24_000 // count
        phases = [
            {"name": f"phase-{n:02}", "start_ms": n * step_ms, "end_ms": (n + 1) * step_ms}
            for n in range(count)
        ]
        reschedule(run, lambda schedule, phases=phases: schedule.update(phases=phases))  # type: ignore[misc]
        evidence = Evidence(run)
        found = operations(evidence)
        plots = draw_run(evidence, found, where_of(evidence, found))
        drawn.append(next(svg.decode() for name, _, svg in plots if name == "timeline"))
    assert ["rotate(-40)" in svg for svg in drawn] == [False, True]


def test_a_real_browser_shows_all_of_it(run: RunFolder, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as shown:
        for page in (run.path / "report.html", run.bundle.path / "report.html"):
            check_page(shown, page, tmp_path / "report.html", figures=6)


def test_what_processes_used_is_summed_over_their_lives(tmp_path: Path) -> None:
    """A replica that was killed begins to count from 0."""
    story = Story(tmp_path)
    name, _, other, *_ = Evidence(story.run).schedule.replicas
    path = story.run.raw / f"{name}.jsonl"
    there = story.run.raw / f"{other}.jsonl"
    up = {"t": START_NS, "m": 1, "boot": "b", "node": other, "n": 1, "event": "started"}
    write_lines(there, [{**up, "replica": 2, "height": 0}, *read_jsonl(there)])
    common = {"m": 1, "boot": "b", "node": name, "n": 1, "event": "usage", "rss_max_mb": 50.5}
    usages = [
        {"cpu_s": 1.0, "syncs": 4, "syncs_s": 0.2, "sent": {"2/Commit": [1, 100]}},
        {"cpu_s": 2.0, "syncs": 8, "syncs_s": 0.4, "sent": {"2/Commit": [2, 200]}},
        {"cpu_s": 0.5, "syncs": 1, "syncs_s": 0.05, "sent": {"2/Commit": [1, 100]}},
    ]
    lines = [
        {"t": story.schedule.run_ms * MS + START_NS + n, **common, **each}
        for n, each in enumerate(usages)
    ]
    write_lines(path, [*read_jsonl(path), *lines])
    (row,) = machines_of(Evidence(story.run)).processes
    assert (row.process, row.lives, row.cpu_s, row.syncs) == (name, 2, 2.5, 9)
    assert row.sync_ms == pytest.approx(50.0)
    assert row.traffic == {("sent", other, "Commit"): (3, 300)}
    assert "What processes used" in undrawn(story.run)
