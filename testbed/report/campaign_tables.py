"""The derived tables of a campaign of several runs: `runs`, one row per run, and `results`, one row
per injection and run in the columns that campaigns are compared by.

`results` are those of the counted runs, put together; where a trial has a baseline run, that run is
the `base` of its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from testbed.bundle import Bundle
from testbed.report.campaign_summary import CampaignSummary, RunRow
from testbed.report.columns import Cell, Table, read_table
from testbed.report.results import RESULT_COLUMNS

__all__ = ["campaign_tables"]

_RUN_COLUMNS = {
    "index": "i",
    "trial": "i",
    "arm": "s",
    "path": "s",
    "state": "s",
    "verdict": "s",
    "counted": "b",
    "reason": "s",
    "attempts": "i",
    "blocks": "i",
    "records": "i",
    "view_changes": "i",
    "sent": "i",
    "censored": "i",
    "goodput_per_s": "f",
    "p50_ms": "f",
    "p99_ms": "f",
    "max_ms": "f",
    "admission_p50_ms": "f",
    "consensus_p50_ms": "f",
    "recovery_ms": "f",
}
_BASE = {
    "goodput_base_per_s": "goodput_per_s",
    "p50_base_ms": "p50_ms",
    "p99_base_ms": "p99_ms",
    "max_base_ms": "max_ms",
}


def campaign_tables(bundle: Bundle, summary: CampaignSummary) -> tuple[Table, ...]:
    """runs, results. Reads derived/results.parquet of each counted run."""
    return (
        Table(name="runs", columns=_RUN_COLUMNS, rows=[_run(row) for row in summary.runs]),
        Table(
            name="results",
            columns={"index": "i", "trial": "i", "arm": "s", **RESULT_COLUMNS},
            rows=list(_results(bundle, summary)),
        ),
    )


def _run(row: RunRow) -> tuple[Cell, ...]:
    cells: dict[str, Any] = msgspec.structs.asdict(row)
    cells |= {"counted": row.counted, "attempts": len(row.attempts)}
    return tuple(cells[name] for name in _RUN_COLUMNS)


def _results(bundle: Bundle, summary: CampaignSummary) -> Iterator[tuple[Cell, ...]]:
    bases = {row.trial: row for row in summary.runs if row.counted and row.arm == "baseline"}
    for row in summary.runs:
        if not row.counted:
            continue
        for found in read_table(Bundle(bundle.path / row.path), "results"):
            if (base := bases.get(row.trial)) is not None:
                found |= {theirs: getattr(base, ours) for theirs, ours in _BASE.items()}
            values = (found.get(name) for name in RESULT_COLUMNS)
            yield (row.index, row.trial, row.arm, *values)
