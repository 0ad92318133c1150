"""Rebuilds everything derived in a bundle from its raw files: no hardware, no network, no clock.

The same raw files give the same bytes, so a report can be made anywhere and compared. `derive` is
for one run; `derive_campaign` for several, from what `derive` left in each; `rebuild` does all.
"""

from __future__ import annotations

import msgspec

from testbed.bundle import Bundle
from testbed.checks.evidence import Evidence
from testbed.checks.ledger import verify_ledgers
from testbed.report.campaign_summary import CampaignSummary
from testbed.report.campaign_tables import campaign_tables
from testbed.report.columns import write_tables
from testbed.report.conclude import conclude
from testbed.report.junit import campaign_junit, junit
from testbed.report.over_runs import over_runs, read_summary
from testbed.report.summary import Summary
from testbed.report.tables import tables

__all__ = ["derive", "derive_campaign", "rebuild"]


def derive(bundle: Bundle) -> Summary:
    """Checks, measures, writes summary.json, derived/, plots/, report.html and junit.xml.

    Raises ConfigurationError if this is no bundle of a run that began.
    """
    evidence = Evidence(bundle)
    summary = conclude(evidence, verify_ledgers(evidence.ledgers, evidence.genesis))
    # The verdict first: it is there even if a disk is too full for figures.
    bundle.write_json("summary.json", msgspec.to_builtins(summary))
    bundle.write("junit.xml", junit(summary))
    write_tables(bundle, tables(evidence, summary))
    # What draws loads for a second: not before there is something to draw.
    from testbed.report.page import page  # noqa: PLC0415
    from testbed.report.plots import draw  # noqa: PLC0415

    bundle.write("report.html", page(evidence, summary, draw(evidence)))
    return summary


def derive_campaign(bundle: Bundle) -> CampaignSummary:
    """The same over several runs, each of which was derived. Raises ConfigurationError."""
    summary = over_runs(bundle)
    runs = {
        row.index: read_summary(Bundle(bundle.path / row.path))
        for row in summary.runs
        if row.verdict is not None
    }
    bundle.write_json("summary.json", msgspec.to_builtins(summary))
    bundle.write("junit.xml", campaign_junit(summary, runs))
    write_tables(bundle, campaign_tables(bundle, summary))
    from testbed.report.campaign_plots import draw_campaign  # noqa: PLC0415
    from testbed.report.page import campaign_page  # noqa: PLC0415

    bundle.write("report.html", campaign_page(bundle, summary, draw_campaign(bundle, summary)))
    return summary


def rebuild(bundle: Bundle) -> Summary | CampaignSummary:
    """Everything again, run by run. Raises ConfigurationError."""
    manifest = bundle.manifest
    if not manifest.several:
        return derive(bundle)
    for entry in manifest.runs:
        if entry.complete:
            derive(bundle.of_run(entry))
    return derive_campaign(bundle)
