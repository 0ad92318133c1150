"""Judges trials that are told apart by the bytes that were sent, from ledgers and logs.

A trial's id is `<request>/<body>`: the id of the request that the body asks for (`-` if it cannot
be read), and the SHA-256 of the body, in hex. It was seen to arrive if the gateway logged either.
It succeeded if these very bytes are in a record that took effect: once is enough.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.item import cose_of
from chain.ledger.operations import read_operation
from testbed.campaign.injection import Judgement
from testbed.checks.evidence import Evidence
from testbed.checks.logs import AttackLine, GroupDenied, Requested

__all__ = ["begun_ns", "details_of", "judge_recorded", "lines_of", "recorded", "trial_of"]


def trial_of(body: bytes, network: bytes) -> str:
    """The id of a trial."""
    try:
        request = read_operation(body, network).id.hex()
    except PeerFault:
        request = "-"
    return f"{request}/{digest(body).hex()}"


def lines_of(evidence: Evidence, attack: str) -> list[AttackLine]:
    """The attempts of an attack."""
    return [line for line in evidence.attacks if line.id == attack]


def details_of(lines: Iterable[AttackLine]) -> dict[str, int]:
    """Counts of the attack's own, over its attempts."""
    total: Counter[str] = Counter()
    for line in lines:
        total.update(line.details)
    return dict(total)


def begun_ns(evidence: Evidence, line: AttackLine) -> int:
    """When an attempt began by the schedule: its line is written when it is over."""
    planned = next((each.at_ms for each in evidence.trial.events if each.id == line.event), None)
    if planned is None or evidence.start_ns is None:
        return line.t
    return evidence.start_ns + planned * 1_000_000


def recorded(evidence: Evidence) -> dict[str, str]:
    """What is on the chain, by the SHA-256 of the signed bytes: `ok`, or `refused:<reason>`."""
    found = {}
    for entry in evidence.longest.entries:
        try:
            body = digest(cose_of(entry.item)).hex()
        except PeerFault:
            continue
        found[body] = "ok" if entry.took_effect else entry.statement.status
    return found


def judge_recorded(evidence: Evidence, attack: str) -> Judgement:
    """`successes`: trials whose bytes are in a record that took effect."""
    lines = lines_of(evidence, attack)
    arrivals = _Arrivals(evidence)
    on_chain = recorded(evidence)
    refused: Counter[str] = Counter()
    observed: list[str] = []
    successes: set[str] = set()
    unseen = {event.id for event in evidence.trial.events if event.fault == attack}
    for line in lines:
        since_ns = begun_ns(evidence, line)
        for trial in line.trials:
            request, _, body = trial.partition("/")
            status = on_chain.get(body)
            outcome = arrivals.take((body, request), since_ns)
            if status is None and outcome in (None, "refused:busy"):
                continue  # nobody has looked at it
            observed.append(trial)
            unseen.discard(line.event)
            if status == "ok":
                successes.add(trial)
            elif status is not None:
                refused[f"ledger:{status.removeprefix('refused:')}"] += 1
            elif outcome is not None and outcome.startswith("refused:"):
                refused[f"gateway:{outcome.removeprefix('refused:')}"] += 1
            elif (reason := arrivals.denied.get(request)) is not None:
                refused[f"group:{reason}"] += 1
    return Judgement(
        trials=sum(len(line.trials) for line in lines),
        observed=len(observed),
        distinct=len(set(observed)),
        successes=len(successes),
        refused=dict(sorted(refused.items())),
        attempts_unseen=len(unseen),
        details=details_of(lines),
    )


class _Arrivals:
    """What the gateway logged; each arrival answers for one trial."""

    def __init__(self, evidence: Evidence) -> None:
        self.denied = {each.id: each.reason for each in evidence.events(GroupDenied) if each.id}
        self._by_id: dict[str, deque[tuple[int, str]]] = {}
        for event in evidence.events(Requested):
            self._by_id.setdefault(event.id, deque()).append((event.t, event.outcome))

    def take(self, names: tuple[str, ...], since_ns: int) -> str | None:
        for name in names:
            times = self._by_id.get(name)
            while times:
                t, outcome = times.popleft()
                if t >= since_ns:
                    return outcome
        return None
