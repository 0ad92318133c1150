"""junit.xml for CI: a property that did not hold is a failure, what was not seen an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from testbed.report.campaign_summary import CampaignSummary
from testbed.report.summary import Summary

__all__ = ["campaign_junit", "junit"]

# What XML 1.0 has no way to write, not even escaped; messages quote what programs printed.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(summary: Summary) -> bytes:
    """One test case per property, fault and attack, and one for the run itself."""
    return _bytes(_counted(_suite(summary)))


def campaign_junit(summary: CampaignSummary, runs: Mapping[int, Summary]) -> bytes:
    """One suite per run of the schedule, and one for what is said over all of them."""
    top = ET.Element("testsuites", name=summary.campaign)
    for row in summary.runs:
        if row.index in runs:
            suite = _suite(runs[row.index], name=row.path)
        else:
            suite = ET.Element("testsuite", name=row.path)
            _case(suite, "run", row.path, error=row.reason or f"not made: {row.state}")
        top.append(_counted(suite))
    suite = ET.SubElement(top, "testsuite", name="all runs")
    for each in summary.properties:
        failure = each.detail if each.held is False else None
        error = each.detail if each.held is None else None
        _case(suite, "property", each.name, failure=failure, error=error)
    for attack in summary.attacks:
        broken = f"{attack.successes} of {attack.trials} trials succeeded"
        invalid = f"{attack.distinct} distinct trials are too few for the bound {attack.allowed}"
        _case(
            suite,
            "attack",
            attack.id,
            failure=broken if attack.verdict == "broken" else None,
            error=invalid if attack.verdict == "invalid" else None,
        )
    _counted(suite)
    return _bytes(top)


def _suite(summary: Summary, name: str | None = None) -> ET.Element:
    suite = ET.Element("testsuite", name=name or summary.campaign)
    for each in summary.properties:
        _case(suite, "property", each.name, failure=None if each.held else each.detail)
    for attack in summary.attacks:
        told = f"{attack.successes} of {attack.trials} trials succeeded"
        broken = attack.verdict == "broken"
        unseen = f"{attack.observed} of {attack.trials} trials were seen to arrive"
        invalid = attack.verdict == "invalid"
        _case(
            suite,
            "attack",
            attack.id,
            failure=told if broken else None,
            error=unseen if invalid else None,
        )
    for fault in summary.faults:
        missing = [step for step in ("applied", "observed", "healed") if not getattr(fault, step)]
        error = f"not {', not '.join(missing)}" if missing else None
        _case(suite, "fault", fault.id, error=error)
    error = "; ".join(summary.notes) or "nothing can be said of this run"
    _case(suite, "run", summary.run, error=error if summary.verdict == "invalid" else None)
    return suite


def _counted(suite: ET.Element) -> ET.Element:
    for kind in ("failure", "error"):
        suite.set(f"{kind}s", str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite)))
    return suite


def _bytes(top: ET.Element) -> bytes:
    ET.indent(top)
    text: bytes = ET.tostring(top, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(
    suite: ET.Element, kind: str, name: str, failure: str | None = None, error: str | None = None
) -> None:
    case = ET.SubElement(suite, "testcase", classname=kind, name=name)
    for tag, message in (("failure", failure), ("error", error)):
        if message is not None:
            ET.SubElement(case, tag, message=_NO_XML.sub("\ufffd", message))
