"""Judges a run of the chain; for the baseline see `testbed.checks.provider`."""

from __future__ import annotations

from chain.ledger.admission import voucher_id
from chain.ledger.operations import Enrol, Factory
from testbed.checks.evidence import Evidence
from testbed.checks.ledger import LedgerReport, verify_ledgers
from testbed.checks.properties import safety
from testbed.checks.records import Entry

__all__ = ["admitted", "report", "safety"]


def admitted(evidence: Evidence) -> int:
    """How many devices of the lab were admitted."""
    entries = evidence.longest.entries
    return len({each.statement.node for each in entries if _is_admission(each, evidence)})


def _is_admission(entry: Entry, evidence: Evidence) -> bool:
    """Of a device of the lab, not of one that the administrator let in during the run."""
    asked = entry.operation
    if not isinstance(asked, Enrol) or not entry.took_effect:
        return False
    tokens = {each.id for each in evidence.genesis.policy.vouchers}
    return isinstance(asked.voucher, Factory) or voucher_id(asked.voucher) in tokens


def report(evidence: Evidence) -> LedgerReport:
    """The ledgers, verified from their genesis."""
    return verify_ledgers(evidence.ledgers, evidence.genesis)
