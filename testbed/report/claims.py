"""The result of each claim that a campaign tests, from the verdicts that exist already."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from testbed.campaign.expect import Claim
from testbed.checks.stats import upper95
from testbed.report.summary import (
    AttackResult,
    ClaimResult,
    ClaimVerdict,
    FaultOverRuns,
    PropertyResult,
    SkippedResult,
)

__all__ = ["claims"]


def claims(
    wanted: Sequence[Claim],
    attacks: Sequence[AttackResult],
    faults: Sequence[FaultOverRuns],
    properties: Sequence[PropertyResult],
    skipped: Sequence[SkippedResult],
) -> Iterator[ClaimResult]:
    """A claim holds if everything that shows it held: attacks, properties, and faults that were
    seen and healed. Skipped events show nothing. If all were skipped, the claim is skipped too,
    because properties always hold in a network without faults."""
    by_attack = {each.id: each for each in attacks}
    verdicts: dict[str, ClaimVerdict] = {each.id.partition(".")[0]: "skipped" for each in skipped}
    verdicts |= {each.id: _of_fault(each) for each in faults}
    verdicts |= {each.name: _of_property(each) for each in properties}
    verdicts |= {each.id: _of_attack(each) for each in attacks}
    names = {each.name for each in properties}
    kinds = {each.id: each.kind for each in attacks} | {each.id: each.kind for each in faults}
    for claim in wanted:
        found = [by_attack[name] for name in claim.shown_by if name in by_attack]
        distinct = sum(each.distinct for each in found)
        successes = sum(each.successes for each in found)
        yield ClaimResult(
            claim=claim.claim,
            sentence=claim.sentence,
            done=tuple(f"{n} ({kinds[n]})" if n in kinds else n for n in claim.shown_by),
            trials=distinct,
            successes=successes,
            upper95=upper95(successes, distinct) if found else None,
            verdict=_verdict(claim, verdicts, names),
        )


def _verdict(
    claim: Claim, verdicts: Mapping[str, ClaimVerdict], properties: Collection[str]
) -> ClaimVerdict:
    """A missing result counts as not seen. Skipped events do not count; the others decide."""
    found = {name: verdicts.get(name, "invalid") for name in claim.shown_by}
    if "broken" in found.values():
        return "broken"
    events = {verdict for name, verdict in found.items() if name not in properties}
    if events == {"skipped"}:
        return "skipped"
    return "invalid" if "invalid" in found.values() else "held"


def _of_attack(attack: AttackResult) -> ClaimVerdict:
    return attack.verdict if attack.verdict in ("held", "broken") else "invalid"


def _of_fault(fault: FaultOverRuns) -> ClaimVerdict:
    whole = fault.injected == fault.applied == fault.observed == fault.healed
    return "held" if whole and not fault.recovery_ms.censored else "invalid"


def _of_property(found: PropertyResult) -> ClaimVerdict:
    if found.held is None:
        return "invalid"
    return "held" if found.held else "broken"
