"""The shared part of all judges of attacks (`Tried`), and the judge of trials that are identified
by the sent bytes (`judge_recorded`), from ledgers and logs.

For `judge_recorded` a trial's id is `<request>/<body>`: the id of the request that the body asks
for (`-` if it cannot be read), and the SHA-256 of the body, in hex. It was seen to arrive if a rule
has judged it: the gateway logged either as refused or known, f+1 replicas refused it, or these
bytes are in a record. It succeeded if exactly these bytes are in a record that took effect, at
least once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection

from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.envelope import read_operation
from chain.ledger.item import cose_of
from testbed.campaign.injection import Judgement
from testbed.checks.evidence import Evidence
from testbed.checks.logs import AttackLine, GroupDenied, Requested, SerialRefused

__all__ = [
    "NO_ROOM",
    "Tried",
    "judge_recorded",
    "recorded",
    "refused_on_lines",
    "trial_of",
]

NO_ROOM = frozenset({"refused:busy", "refused:outbox-full"})
"""Outcomes at a gateway that say nothing about a message: it had no room for any."""


def refused_on_lines(evidence: Evidence, boards: Collection[str], since_ns: int) -> Counter[str]:
    """How many frames on the lines of these boards were refused since this time, by
    "serial:reason"."""
    refused: Counter[str] = Counter()
    counted: dict[tuple[str, str, str], int] = {}
    for event in evidence.events(SerialRefused):
        key = event.node, event.board, event.reason
        before = counted.get(key, 0)
        counted[key] = event.count
        # A device that was started again counts from 0.
        more = event.count - before if event.count > before else event.count
        if event.board in boards and event.t >= since_ns:
            refused[f"serial:{event.reason}"] += more
    return refused


def trial_of(body: bytes, network: bytes) -> str:
    """The id of a trial."""
    try:
        request = read_operation(body, network).id.hex()
    except PeerFault:
        request = "-"
    return f"{request}/{digest(body).hex()}"


class Tried:
    """What an attack tried, and which of its trials were seen to arrive. `refused` counts the
    refusals, as "layer:reason"."""

    def __init__(self, evidence: Evidence, attack: str) -> None:
        self.lines = [line for line in evidence.attacks if line.id == attack]
        self.events = {each.id: each for each in evidence.trial.events if each.fault == attack}
        self.refused: Counter[str] = Counter()
        self._start_ns = evidence.start_ns
        self._observed: list[str] = []
        self._seen: set[str] = set()
        self._unseen: set[str] = set()

    @property
    def trials(self) -> list[str]:
        return [trial for line in self.lines for trial in line.trials]

    @property
    def details(self) -> dict[str, int]:
        """The attack's own counts, summed over its attempts."""
        total: Counter[str] = Counter()
        for line in self.lines:
            total.update(line.details)
        return dict(total)

    def params(self, name: str) -> set[str]:
        """The values of a parameter in the attack's events."""
        return {str(event.params[name]) for event in self.events.values()}

    def begun_ns(self, line: AttackLine) -> int:
        """When an attempt began, by the schedule. (Its line is written when it is over.)"""
        planned = self.events.get(line.event)
        if planned is None or self._start_ns is None:
            return line.t
        return self._start_ns + planned.at_ms * 1_000_000

    @property
    def since_ns(self) -> int:
        """When the first attempt that sent something began; 0 if none did."""
        return min((self.begun_ns(line) for line in self.lines if line.trials), default=0)

    def see(self, line: AttackLine, arrived: Collection[str]) -> None:
        """Notes which of the line's trials were seen to arrive. Call it for each line."""
        self._observed += arrived
        if line.trials:
            (self._seen if arrived else self._unseen).add(line.event)

    def judgement(self, successes: int, **details: float) -> Judgement:
        """An attempt is unseen if none of its trials was seen to arrive, or if its line is
        missing."""
        return Judgement(
            trials=len(self.trials),
            observed=len(self._observed),
            distinct=len(set(self._observed)),
            successes=successes,
            refused=dict(sorted(self.refused.items())),
            attempts_unseen=len((self.events.keys() - self._seen) | self._unseen),
            details=self.details | details,
        )


def recorded(evidence: Evidence) -> dict[str, str]:
    """The outcomes on the chain, by the SHA-256 of the signed bytes: `ok`, or
    `refused:<reason>`."""
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
    tried = Tried(evidence, attack)
    arrivals = _Arrivals(evidence)
    on_chain = recorded(evidence)
    successes: set[str] = set()
    for line in tried.lines:
        since_ns = tried.begun_ns(line)
        arrived = []
        for trial in line.trials:
            request, _, body = trial.partition("/")
            status = on_chain.get(body)
            outcome = arrivals.take((body, request), since_ns)
            denied = arrivals.denied.get(request)
            if status == "ok":
                successes.add(trial)
            elif status is not None:
                tried.refused[f"ledger:{status.removeprefix('refused:')}"] += 1
            elif outcome is None or outcome in NO_ROOM:
                continue  # no rule has judged it
            elif outcome.startswith("refused:"):
                tried.refused[f"gateway:{outcome.removeprefix('refused:')}"] += 1
            elif denied is not None:
                tried.refused[f"group:{denied}"] += 1
            elif outcome == "accepted":
                continue  # it still waits for the replicas' answer
            arrived.append(trial)
        tried.see(line, arrived)
    return tried.judgement(len(successes))


class _Arrivals:
    """The arrivals that the gateway logged. Each counts for one trial only."""

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
