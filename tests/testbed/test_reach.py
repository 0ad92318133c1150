"""A host that is lost in mid-run is reported at once and by name, and again at the end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from testbed.bundle import RunFolder
from testbed.campaign.reach import Reach
from testbed.commands.judging import shown_if_the_lab_fails
from testbed.errors import LabFault
from testbed.report.derive import rebuild
from testbed.report.judging import Judging
from testbed.report.table import render
from tests.testbed.bundles import Story, lines, write_lines


class Ears:
    """What was said and written, on a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.said: list[str] = []
        self.written: list[dict[str, object]] = []
        self.reach = Reach(
            self.said.append, lambda _, **fields: self.written.append(fields), lambda: self.now_s
        )


def test_a_lost_host_is_reported_once_with_the_time_since_its_last_answer() -> None:
    ears = Ears()
    ears.reach.answered("pi03")
    ears.reach.answered("pi04")
    ears.now_s += 9
    ears.reach.silent("pi03")
    ears.reach.silent("pi03")
    assert ears.said == ["pi03 has not answered since 9 s"]
    ears.now_s += 11
    assert ears.reach.lines == ["pi03 has not answered since 20 s"]
    ears.reach.answered("pi03")
    assert ears.said[1:] == ["pi03 answers again, after 20 s"]
    assert ears.reach.lines == []
    assert [each["what"] for each in ears.written] == ["host-lost", "host-back"]


def lose(run: RunFolder, host: str, at_ms: int, back_s: int | None = None) -> None:
    """As the orchestrator of a run writes it down."""
    path = run.raw / "run.jsonl"
    begun = lines(path)
    start_ns = next(each["start_ns"] for each in begun if each["what"] == "start")
    lost = {"t": start_ns + at_ms * 10**6, "what": "host-lost", "host": host, "silent_s": 4}
    back = {"t": start_ns, "what": "host-back", "host": host, "silent_s": back_s}
    write_lines(path, [*begun, lost, *([back] if back_s is not None else [])])


def test_the_report_names_hosts_that_were_lost(story: Story, tmp_path: Path) -> None:
    run = story.copy(tmp_path)
    lose(run, "pi03", 13_000)
    lose(run, "pi04", 15_000, back_s=12)
    summary = rebuild(run.bundle)
    assert "pi03 has not answered since 9 s after the start" in summary.notes
    assert "pi04 did not answer for 12 s" in summary.notes


def test_there_is_a_table_also_if_the_lab_fails(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was collected until then, the reason, and the host that was lost."""
    run = story.copy(tmp_path)
    lose(run, "pi03", 13_000)
    log = run.raw / "run.jsonl"
    write_lines(log, [each for each in lines(log) if each["what"] != "end"])
    run.bundle.update(0, state="failed", reason="the lease of pi03 was lost")
    with (
        pytest.raises(LabFault, match="pi03"),
        shown_if_the_lab_fails(Judging(run.bundle), as_json=False),
    ):
        raise LabFault("the lease of pi03 was lost")
    said = capsys.readouterr().out
    for words in (
        *("0 of 1 in the figures, 1 failed", "5 of 5", "run 0: the lease of pi03 was lost"),
        *("pi03 has not answered since 9 s", "testbed resume"),
    ):
        assert words in said
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(render(rebuild(run.bundle)))
    assert "invalid" in console.export_text()
