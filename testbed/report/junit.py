"""junit.xml for CI. A property that did not hold is a failure. A fault or attack that was not seen
is an error.

Names come from the campaign and its runs, never from the bundle: CI servers follow a test case from
one build to the next by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from testbed.report.summary import AttackResult, PropertyResult, RunRow, Summary

__all__ = ["junit"]

# XML 1.0 cannot express these, not even escaped. Messages quote what programs printed.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(summary: Summary) -> bytes:
    """One suite per run of the schedule, and one for all runs together."""
    top = ET.Element("testsuites", name=summary.campaign)
    for row in summary.runs:
        top.append(_counted(_run(row)))
    suite = ET.SubElement(top, "testsuite", name="all runs")
    _judged(suite, summary.properties, summary.attacks)
    _counted(suite)
    ET.indent(top)
    text: bytes = ET.tostring(top, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _run(row: RunRow) -> ET.Element:
    """One test case per property, fault and attack, and one for the run itself."""
    suite = ET.Element("testsuite", name=row.path)
    summary = row.summary
    if summary is None:
        _case(suite, "run", row.path, error=row.reason or f"not made: {row.state}")
        return suite
    _judged(suite, summary.properties, summary.attacks)
    for event in summary.skipped:
        _case(suite, "skipped", event.id, skipped=event.reason)
    for fault in summary.faults:
        missing = [step for step in ("applied", "observed", "healed") if not getattr(fault, step)]
        error = f"not {', not '.join(missing)}" if missing else None
        _case(suite, "fault", fault.id, error=error)
    error = row.reason or "; ".join(summary.notes) or "nothing can be said of this run"
    _case(suite, "run", row.path, error=error if row.state != "done" else None)
    return suite


def _judged(
    suite: ET.Element, properties: Iterable[PropertyResult], attacks: Iterable[AttackResult]
) -> None:
    for each in properties:
        failure = each.detail if each.held is False and each.expected == "held" else None
        error = each.detail if each.held is None else None
        _case(suite, "property", each.name, failure=failure, error=error)
    for attack in attacks:
        broken = f"{attack.successes} of {attack.trials} trials succeeded"
        unseen = f"seen to arrive: {attack.observed} of {attack.trials} trials"
        if attack.allowed is not None:
            unseen += f", {attack.distinct} distinct: too few for the bound {attack.allowed}"
        _case(
            suite,
            "attack",
            attack.id,
            failure=broken if (attack.verdict, attack.expected) == ("broken", "held") else None,
            error=unseen if attack.verdict == "invalid" else None,
        )


def _counted(suite: ET.Element) -> ET.Element:
    for kind in ("failure", "error"):
        suite.set(f"{kind}s", str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite)))
    return suite


def _case(
    suite: ET.Element,
    kind: str,
    name: str,
    *,
    failure: str | None = None,
    error: str | None = None,
    skipped: str | None = None,
) -> None:
    case = ET.SubElement(suite, "testcase", classname=kind, name=name)
    for tag, message in (("failure", failure), ("error", error), ("skipped", skipped)):
        if message is not None:
            ET.SubElement(case, tag, message=_NO_XML.sub("\ufffd", message))
