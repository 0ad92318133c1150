"""Judges the baseline from its provider's collected readings, as far as possible.

They are read into the same records as a chain's, so figures and checks are the same. Only two
properties can be judged: exactly-once and durability. There is one copy, so agreement cannot be
judged. Only the provider's keys could prove that a device sent a reading and was allowed to. They
are not in a bundle, and anybody who has them can make any reading.
"""

from __future__ import annotations

from testbed.checks.evidence import Evidence
from testbed.checks.finding import Finding
from testbed.checks.ledger import FileReport, LedgerReport
from testbed.checks.logs import DeviceAdmitted
from testbed.checks.properties import Property, durability, exactly_once

__all__ = ["admitted", "report", "safety"]

_UNPROVEN = "nothing here can be verified without the provider's own keys"


def admitted(evidence: Evidence) -> int:
    """How many of the lab's devices have a key. An attacker may have one too."""
    known = {event.id for event in evidence.events(DeviceAdmitted)}
    stored = (e.statement for e in evidence.longest.entries if e.statement.op == "enrol")
    return sum(statement.request.hex() in known for statement in stored)


def report(evidence: Evidence) -> LedgerReport:
    """What was stored; none of it is proven."""
    return LedgerReport(
        network="",
        proven=0,
        files=tuple(
            FileReport(
                file=chain.name,
                replica=chain.replica,
                height=chain.height,
                records=len(chain.entries),
                findings=(Finding(file=chain.name, height=0, field="readings", detail=_UNPROVEN),),
            )
            for chain in evidence.chains
        ),
    )


def safety(evidence: Evidence, ledger: LedgerReport) -> tuple[Property, ...]:
    """The properties that can be judged."""
    del ledger
    return exactly_once(evidence.longest), durability(evidence, evidence.chains, "stored")
