"""Rebuilds everything derived in a bundle from its raw files: no hardware, no network, no clock.

The same raw files give the same bytes, so a report can be made anywhere and compared.
"""

from __future__ import annotations

import msgspec

from testbed.bundle import Bundle
from testbed.checks.evidence import Evidence
from testbed.checks.ledger import verify_ledgers
from testbed.report.columns import write_tables
from testbed.report.conclude import conclude
from testbed.report.junit import junit
from testbed.report.page import page
from testbed.report.plots import draw
from testbed.report.summary import Summary
from testbed.report.tables import tables

__all__ = ["derive"]


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
    bundle.write("report.html", page(evidence, summary, draw(evidence)))
    return summary
