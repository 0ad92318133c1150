"""Rebuilds everything derived in a bundle from its raw files: no hardware, no network, no clock.

The same raw files give the same bytes, so a report can be made anywhere and compared. `derive_run`
judges one run. `derive` combines all runs, from the files that `derive_run` left in each. `rebuild`
does both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from testbed.bundle import Bundle, RunFolder
from testbed.checks.evidence import Evidence
from testbed.report.archive import describe, seal
from testbed.report.columns import write_tables
from testbed.report.conclude import conclude
from testbed.report.junit import junit
from testbed.report.machines import Machines, machines_of
from testbed.report.measure import operations
from testbed.report.over_runs import over_runs
from testbed.report.summary import RunSummary, Summary
from testbed.report.tables import run_tables, tables
from testbed.report.where import Where, where_of
from testbed.systems.known import find_system

if TYPE_CHECKING:
    from testbed.report.style import Plot

__all__ = ["DerivedRun", "derive", "derive_run", "rebuild"]


class DerivedRun(NamedTuple):
    """The result of `derive_run` for `run`."""

    run: RunFolder
    summary: RunSummary
    plots: tuple[Plot, ...]
    where: Where
    machines: Machines


def derive_run(run: RunFolder, *, pdf: bool = False) -> DerivedRun:
    """Checks and measures one run; writes its summary.json, derived/, plots/ and report.html.

    `pdf`: each figure also as PDF. Raises ConfigurationError if the run never began.
    """
    evidence = Evidence(run)
    found = operations(evidence)
    where = where_of(evidence, found)
    ledger = find_system(evidence.schedule.system).checks().report(evidence)
    summary = conclude(evidence, ledger, where.problems)
    # The verdict comes first, so that it exists even if the disk is too full for figures.
    run.write_json("summary.json", msgspec.to_builtins(summary))
    run.clear()
    machines = machines_of(evidence)
    write_tables(run, run_tables(evidence, summary, found, where, machines))
    # The drawing code takes a second to import, so it is imported only if there is something to
    # draw.
    from testbed.report.page import run_page  # noqa: PLC0415
    from testbed.report.run_plots import draw_run  # noqa: PLC0415

    plots = draw_run(evidence, found, where, pdf=pdf)
    run.write("report.html", run_page(evidence, summary, plots, where, machines))
    return DerivedRun(run, summary, plots, where, machines)


def derive(
    bundle: Bundle, last: DerivedRun | None = None, *, measured: bool = True, pdf: bool = False
) -> Summary:
    """Combines all runs. Each was derived before, and `last` just now. `measured`: raw files are
    new, so the sums of all files are written. Raises ConfigurationError."""
    summary = over_runs(bundle)
    bundle.write_json("summary.json", msgspec.to_builtins(summary))
    bundle.write("junit.xml", junit(summary))
    bundle.clear()
    write_tables(bundle, tables(bundle, summary))
    from testbed.report.page import page  # noqa: PLC0415 - see above
    from testbed.report.plots import draw  # noqa: PLC0415 - see above

    plots, where, machines = draw(bundle, summary, pdf=pdf), None, None
    if len(summary.runs) == 1 and summary.runs[0].summary is not None:
        # Without `last` it is drawn again: the figures in somebody else's bundle may be anything.
        only = last or derive_run(bundle.runs[0], pdf=pdf)
        plots, where, machines = plots + only.plots, only.where, only.machines
    describe(bundle, summary)
    bundle.write("report.html", page(bundle, summary, plots, where, machines))
    seal(bundle, measured=measured)
    return summary


def rebuild(bundle: Bundle, *, pdf: bool = False) -> Summary:
    """Derives every run again, then the whole bundle. Raises ConfigurationError."""
    last = None
    for run in bundle.runs:
        if run.entry.complete or run.was_collected:
            last = derive_run(run, pdf=pdf)
    return derive(bundle, last, measured=False, pdf=pdf)
