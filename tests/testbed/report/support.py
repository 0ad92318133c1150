"""What the tests of a run's report share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from testbed.bundle import RunFolder
from testbed.report.over_runs import over_runs
from testbed.report.summary import RunSummary, Summary
from tests.testbed.bundles import judged, lines, write_lines

Lines = list[dict[str, Any]]


def whole_of(run: RunFolder) -> Summary:
    """What the bundle says, without drawing."""
    run.write_json("summary.json", msgspec.to_builtins(judged(run)))
    return over_runs(run.bundle)


def change(run: RunFolder, log: str, by: Callable[[Lines], Lines]) -> None:
    path = run.raw / f"{log}.jsonl"
    write_lines(path, by(lines(path)))


def held(summary: RunSummary, name: str) -> tuple[bool | None, str]:
    found = next(each for each in summary.properties if each.name == name)
    return found.held, found.detail
