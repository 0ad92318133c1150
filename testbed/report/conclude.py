"""Makes the summary of one run from its evidence. The rules are at the fields of `summary`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from testbed.campaign.expect import FIRST_COMMIT
from testbed.campaign.injection import Judgement
from testbed.checks.attacks import attack_ids, judge
from testbed.checks.evidence import Evidence
from testbed.checks.faults import InjectionResult, injections
from testbed.checks.ledger import LedgerReport
from testbed.checks.logs import ViewEntered
from testbed.checks.stats import upper95
from testbed.report.measure import latency_table, load_table, operations
from testbed.report.notes import notes
from testbed.report.summary import (
    AttackResult,
    AttackVerdict,
    FaultResult,
    PropertyResult,
    RunSummary,
    RunVerdict,
    SkippedResult,
)
from testbed.systems.known import find_system

__all__ = ["conclude"]

_NOT_JUDGED = Judgement(0, 0, 0, 0, {})


def conclude(evidence: Evidence, ledger: LedgerReport, of_traces: Sequence[str]) -> RunSummary:
    """Everything that a run's summary says; `of_traces` is what could not be read of its traces."""
    chain = evidence.longest
    checks = find_system(evidence.schedule.system).checks()
    found = injections(evidence)
    attacks = tuple(_attack(evidence, *attack) for attack in attack_ids(evidence))
    properties = tuple(_properties(evidence, ledger, found))
    asked = operations(evidence)
    return RunSummary(
        verdict=_verdict(evidence, properties, found, attacks),
        devices_admitted=checks.admitted(evidence),
        devices_expected=sum(each.enrol_at_ms is not None for each in evidence.trial.devices),
        blocks=chain.height,
        blocks_proven=ledger.proven,
        records=len(chain.entries),
        data_records=sum(e.took_effect and e.statement.op == "data" for e in chain.entries),
        stored_bytes=sum(path.stat().st_size for path in evidence.ledgers),
        ledger_verified=ledger.holds,
        ledger_problem=_problem(ledger),
        view_changes=len({event.view for event in evidence.events(ViewEntered)} - {0}),
        latency_ms=latency_table(evidence, asked),
        load=load_table(evidence, asked),
        faults=tuple(map(_fault, found)),
        attacks=attacks,
        properties=properties,
        skipped=tuple(
            SkippedResult(id=event.id, kind=event.kind, reason=event.skipped)
            for event in evidence.trial.events
            if event.skipped is not None
        ),
        notes=tuple(notes(evidence, ledger, found, attacks, of_traces)),
    )


def _problem(ledger: LedgerReport) -> str | None:
    if not ledger.files:
        return "no replica's ledger was collected"
    return str(ledger.findings[0]) if ledger.findings else None


def _verdict(
    evidence: Evidence,
    properties: tuple[PropertyResult, ...],
    found: tuple[InjectionResult, ...],
    attacks: tuple[AttackResult, ...],
) -> RunVerdict:
    verdicts = {attack.verdict for attack in attacks}
    wrong = {p.weight for p in properties if p.held is False and p.expected == "held"}
    broken = any(each.verdict == "broken" and each.expected == "held" for each in attacks)
    if evidence.chains and ("safety" in wrong or broken):
        return "failed"
    seen = all(each.took_place and each.healed_ms is not None for each in found)
    if not evidence.chains or not evidence.completed or not seen or "invalid" in verdicts:
        return "invalid"
    if evidence.unfit or evidence.idle or evidence.missing:
        return "invalid"
    return "degraded" if wrong else "passed"


def _fault(found: InjectionResult) -> FaultResult:
    return FaultResult(
        id=found.id,
        kind=found.kind,
        target=found.target,
        applied=found.applied_ms is not None,
        observed=found.observed,
        healed=found.healed_ms is not None,
        recovery_ms=_rounded(found.recovery_ms),
        recovery_bound_ms=_rounded(found.recovery_bound_ms),
        recovery_state=found.recovery_state,
        whole_ms=_rounded(found.whole_ms),
        seen=found.what,
        started_late_ms=(
            None if found.applied_ms is None else round(found.applied_ms - found.planned_ms, 3)
        ),
    )


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)


def _attack(evidence: Evidence, attack: str, kind: str) -> AttackResult:
    """The campaign's bounds are judged over all runs (`over_runs`)."""
    judged = judge(evidence, attack, kind) or _NOT_JUDGED
    verdict: AttackVerdict = "held" if judged.distinct and not judged.attempts_unseen else "invalid"
    return AttackResult(
        id=attack,
        kind=kind,
        trials=judged.trials,
        observed=judged.observed,
        distinct=judged.distinct,
        successes=judged.successes,
        upper95=upper95(judged.successes, judged.distinct),
        expected="broken" if attack in evidence.expect.broken else "held",
        verdict="broken" if judged.successes else verdict,
        details=dict(judged.details),
        refused=dict(judged.refused),
    )


def _properties(
    evidence: Evidence, ledger: LedgerReport, found: tuple[InjectionResult, ...]
) -> Iterator[PropertyResult]:
    struck = any(event.skipped is None for event in evidence.trial.events)
    wanted = evidence.expect.safety
    for each in find_system(evidence.schedule.system).checks().safety(evidence, ledger):
        yield PropertyResult(
            name=each.name,
            held=each.held,
            detail=each.detail,
            expected="broken" if struck and each.name in evidence.expect.broken else "held",
            weight="safety" if not wanted or each.name in wanted else "bound",
        )
    yield from _bounds_on_faults(evidence, found)
    bound = evidence.expect.liveness.first_commit_after_heal
    healed = [each for each in found if each.healed_ms is not None]
    if bound is None or not healed:
        return
    judged = _first_commit(FIRST_COMMIT, bound.ms, healed)
    # A run that was cut short had no time to recover. A replica without a log may have been the
    # first to recover. So both say nothing against liveness.
    if evidence.completed and (judged.held or not evidence.silent):
        yield judged


def _first_commit(name: str, bound_ms: float, healed: Sequence[InjectionResult]) -> PropertyResult:
    """The longest recovery decides, if the clocks allow to compute all of them."""
    judged = _at_most(name, bound_ms, [each.recovery_ms for each in healed if not _untold(each)])
    if judged.held and any(map(_untold, healed)):
        why = "not known of all: a host's clock was set meanwhile, or never read"
        return msgspec.structs.replace(judged, held=None, detail=why)
    return judged


def _untold(each: InjectionResult) -> bool:
    return each.recovery_state == "unknown"


def _at_most(name: str, bound_ms: float, values_ms: Sequence[float | None]) -> PropertyResult:
    """None: never."""
    worst_ms = max((float("inf") if ms is None else ms for ms in values_ms), default=0.0)
    took = "never" if worst_ms == float("inf") else f"after {worst_ms:.0f} ms"
    return PropertyResult(
        name=name,
        held=worst_ms <= bound_ms,
        weight="bound",
        detail=f"{took}, at most {bound_ms:.0f} ms wanted",
    )


def _bounds_on_faults(
    evidence: Evidence, found: tuple[InjectionResult, ...]
) -> Iterator[PropertyResult]:
    """Judges the campaign's bounds on single faults, like `FIRST_COMMIT`."""
    if not evidence.completed:
        return
    for fault, wanted in evidence.expect.fault.items():
        events = [each for each in found if each.fault == fault and each.healed_ms is not None]
        if not events:
            continue
        if wanted.first_commit is not None:
            yield _first_commit(f"{fault}-first-commit", wanted.first_commit.ms, events)
        if wanted.whole is not None:
            yield _at_most(f"{fault}-whole", wanted.whole.ms, [each.whole_ms for each in events])
