"""junit.xml for CI: a property that did not hold is a failure, what was not seen an error."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from testbed.report.summary import Summary

__all__ = ["junit"]


def junit(summary: Summary) -> bytes:
    """One test case per property, fault and attack, and one for the run itself."""
    suite = ET.Element("testsuite", name=summary.campaign)
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
    for kind in ("failure", "error"):
        suite.set(f"{kind}s", str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite)))
    ET.indent(suite)
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(
    suite: ET.Element, kind: str, name: str, failure: str | None = None, error: str | None = None
) -> None:
    case = ET.SubElement(suite, "testcase", classname=kind, name=name)
    for tag, message in (("failure", failure), ("error", error)):
        if message is not None:
            ET.SubElement(case, tag, message=message)
