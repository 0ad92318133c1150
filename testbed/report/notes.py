"""Notes that a reader should know before trusting the numbers of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from testbed.checks.attacks import not_judged
from testbed.checks.conditions import unknown
from testbed.checks.evidence import Evidence
from testbed.checks.faults import InjectionResult
from testbed.checks.finding import lost_ledgers
from testbed.checks.ledger import LedgerReport
from testbed.checks.logs import (
    BoardGap,
    ConflictSeen,
    EventsDropped,
    LogEvent,
    RelayGap,
    StoreDamaged,
    StoreMissing,
    VotingAgain,
)
from testbed.report.measure import operations
from testbed.report.saturation import saturation_of
from testbed.report.summary import AttackResult

__all__ = ["notes"]


def notes(
    evidence: Evidence,
    ledger: LedgerReport,
    found: Sequence[InjectionResult],
    attacks: Sequence[AttackResult],
    of_traces: Sequence[str],
) -> Iterator[str]:
    """One sentence each."""
    if not evidence.completed:
        yield "the run was cut short: not all phases were completed"
    if any(line.settled is False for line in evidence.run_log):
        yield "at the end some device waited for an answer or some replica had not caught up"
    if evidence.idle:
        yield "nothing that a device asked for took effect: nothing was put to the test"
    if (saturation := saturation_of(evidence, operations(evidence))) is not None:
        yield f"saturation: {saturation.in_words}"
    yield from _silent_hosts(evidence)
    yield from _voteless(evidence)
    for what in evidence.missing:
        yield f"not collected: {what}; not all could be judged"
    for reason in evidence.unfit:
        yield f"this run does not count: {reason}"
    yield from unknown(evidence.conditions)
    yield from _injection_notes(evidence, found, attacks)
    yield from _ledger_notes(evidence, ledger)
    yield from _log_notes(evidence)
    yield from (f"left out of the traces: {problem}" for problem in of_traces)


def _silent_hosts(evidence: Evidence) -> Iterator[str]:
    """Hosts that were lost during the run, and whether they came back."""
    lost: dict[str, int] = {}
    for line in evidence.run_log:
        if line.host is not None and line.what == "host-lost":
            lost[line.host] = line.t - line.silent_s * 10**9
        elif line.host in lost and line.what == "host-back":
            del lost[line.host]
            yield f"{line.host} did not answer for {line.silent_s} s"
    for host, since_ns in lost.items():
        at_s = evidence.at_ms(since_ns) / 1000
        yield f"{host} has not answered since {at_s:.0f} s after the start"


def _voteless(evidence: Evidence) -> Iterator[str]:
    """Replicas that lost their ledgers and have not voted again since."""
    began = {**_last(evidence, StoreDamaged), **_last(evidence, StoreMissing)}
    again = _last(evidence, VotingAgain)
    names = sorted(name for name, at_ns in began.items() if again.get(name, 0) < at_ns)
    if names:
        yield lost_ledgers(names, evidence.genesis.membership.quorum)


def _last(evidence: Evidence, kind: type[LogEvent]) -> dict[str, int]:
    return {event.node: event.t for event in evidence.events(kind)}


def _injection_notes(
    evidence: Evidence, found: Sequence[InjectionResult], attacks: Sequence[AttackResult]
) -> Iterator[str]:
    for fault in found:
        if fault.aborted:
            yield f"fault {fault.id} was aborted by hand"
        elif not fault.took_place:
            how = "`testbed campaign kinds` says how it is seen"
            yield f"fault {fault.id} was not seen to take effect; {how}"
        elif fault.healed_ms is None:
            yield f"fault {fault.id} was not healed"
        elif fault.whole_ms is None:
            yield f"fault {fault.id}: {fault.target} was not found whole again after healing"
    for attack in attacks:
        if attack.observed < attack.trials:
            missing = attack.trials - attack.observed
            yield f"attack {attack.id}: not seen to arrive: {missing} of {attack.trials} trials"
        if (reason := not_judged(evidence, attack.id, attack.kind)) is not None:
            yield f"attack {attack.id}: {reason}"
        elif attack.verdict == "invalid":
            yield f"attack {attack.id}: too little was seen to arrive for a verdict"


def _ledger_notes(evidence: Evidence, ledger: LedgerReport) -> Iterator[str]:
    for name in sorted(evidence.unhealed):
        yield f"{name} lied to the end: its ledger is not judged"
    if healed := sorted(evidence.liars - evidence.unhealed):
        yield (
            f"{', '.join(healed)} lied for a while; since only what they sent was forged, their "
            "ledgers are judged like the others"
        )
    if 0 < ledger.proven < evidence.longest.height:
        above = f"blocks above height {ledger.proven}"
        yield f"not yet vouched for by f+1 of the collected ledgers: {above}"


def _log_notes(evidence: Evidence) -> Iterator[str]:
    for name, count in sorted(evidence.unreadable.items()):
        if count:
            yield f"raw/{name}: {count} torn line{'s' if count > 1 else ''} left out"
    dropped = sum(event.count for event in evidence.events(EventsDropped))
    if dropped:
        yield f"events that could not be written (disk full?): {dropped}"
    for gap in evidence.events(BoardGap):
        yield f"board {gap.board} was out of reach for {gap.seconds:.1f} s: {gap.reason}"
    lost = sum(event.missing for event in evidence.events(RelayGap))
    if lost:
        yield f"messages lost between relays and gateway: {lost}"
    for replica in sorted({event.replica for event in evidence.events(ConflictSeen)}):
        yield f"replica {replica} signed two different heads of one height"
