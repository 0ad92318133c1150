"""Judges a replay from ledgers and logs alone: what was tried, what arrived, what had an effect.

A trial names what was sent, followed by "#n": `<request id>@<relay>` in hex for a message that the
attacker published as that relay, or `serial/<board>/<SHA-256 of the frame>` for a frame on a
board's line. It counts as observed if its arrival was logged by whoever it was meant for: the
gateway (over that relay: a device that asks again over its own is no attack), or the tap on the
serial line, after the attempt began. A trial that was not seen to arrive proves nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from hashlib import sha256

from testbed.campaign.injection import Judgement
from testbed.checks.evidence import Evidence
from testbed.checks.logs import AttackLine, GroupDenied, Requested, SerialRefused
from testbed.checks.properties import repeated_readings

__all__ = ["judge"]

SERIAL = "serial/"


def judge(evidence: Evidence, attack: str) -> Judgement:
    """`distinct` counts different messages among the observed trials; `successes` extra records
    of those requests, and readings of those boards that are on the chain again."""
    attempts = [line for line in evidence.attacks if line.id == attack]
    trials = [trial for line in attempts for trial in line.trials]
    arrivals = _Arrivals(evidence, trials)
    observed: list[str] = []
    unseen = {event.id for event in evidence.trial.events if event.fault == attack}
    for line in attempts:
        seen = [
            message
            for message in map(_message, line.trials)
            if arrivals.take(message, _begun(evidence, line))
        ]
        if seen:
            unseen.discard(line.event)
        else:
            unseen.add(line.event)
        observed += seen
    return Judgement(
        trials=len(trials),
        observed=len(observed),
        distinct=len(set(observed)),
        successes=_successes(evidence, {_message(trial) for trial in trials}),
        refused=dict(sorted(_refused(evidence, attempts, arrivals).items())),
        attempts_unseen=len(unseen),
    )


class _Arrivals:
    """When and how each message arrived; each arrival answers for one trial."""

    def __init__(self, evidence: Evidence, trials: list[str]) -> None:
        self.reasons: Counter[str] = Counter()
        self._times: dict[str, deque[tuple[int, str]]] = {}
        messages = {_message(trial) for trial in trials}
        for event in evidence.events(Requested):
            message = f"{event.id}@{event.relay}"
            if message in messages:
                reason = event.outcome.removeprefix("refused:")
                self._times.setdefault(message, deque()).append((event.t, f"gateway:{reason}"))
        for board in sorted({_board(message) for message in messages} - {None}, key=str):
            for frame in evidence.serial(board or ""):
                message = f"{SERIAL}{board}/{_digest(frame.frame)}"
                if frame.dir == "from-board" and message in messages:
                    self._times.setdefault(message, deque()).append((frame.t, ""))

    def take(self, message: str, since_ns: int) -> bool:
        """Whether there is an arrival of `message` from then on that no other trial took."""
        times = self._times.get(message)
        while times:
            t, reason = times.popleft()
            if t >= since_ns:
                self.reasons[reason] += 1
                return True
        return False


def _refused(evidence: Evidence, attempts: list[AttackLine], arrivals: _Arrivals) -> Counter[str]:
    """What the system said, by layer and reason. Serial refusals do not name their frame: those
    on the attacked lines from the first attempt on are counted."""
    refused = Counter({r: n for r, n in arrivals.reasons.items() if r and r != "gateway:accepted"})
    messages = {_message(trial) for line in attempts for trial in line.trials}
    requests = set(map(_request, messages))
    since_ns = min((_begun(evidence, line) for line in attempts if line.trials), default=0)
    boards = {_board(message) for message in messages}
    for event in evidence.events(SerialRefused):
        if event.board in boards and event.t >= since_ns:
            refused[f"serial:{event.reason}"] += 1
    for denied in evidence.events(GroupDenied):
        if denied.id in requests and denied.t >= since_ns:
            refused[f"group:{denied.reason}"] += 1
    for entry in evidence.longest.entries:
        status = entry.statement.status
        if status.startswith("refused:") and entry.statement.request.hex() in requests:
            refused[f"ledger:{status.removeprefix('refused:')}"] += 1
    return refused


def _begun(evidence: Evidence, line: AttackLine) -> int:
    """When an attempt began by the schedule: its line is written when it is over."""
    planned = next((each.at_ms for each in evidence.trial.events if each.id == line.event), None)
    if planned is None or evidence.start_ns is None:
        return line.t
    return evidence.start_ns + planned * 1_000_000


def _successes(evidence: Evidence, messages: set[str]) -> int:
    requests = set(map(_request, messages))
    counts = Counter(
        entry.statement.request.hex()
        for entry in evidence.longest.entries
        if entry.took_effect and entry.statement.request.hex() in requests
    )
    boards = {_board(message) for message in messages}
    again = repeated_readings(evidence.longest)
    return sum(count - 1 for count in counts.values()) + sum(
        count - 1 for (board, _, _), count in again.items() if board in boards
    )


def _message(trial: str) -> str:
    """What was sent, without the number of the trial."""
    return trial.rpartition("#")[0] or trial


def _request(message: str) -> str:
    """The id of a request, whoever brought it."""
    return message.partition("@")[0]


def _board(message: str) -> str | None:
    return message.split("/")[1] if message.startswith(SERIAL) else None


def _digest(frame: str) -> str:
    try:
        return sha256(bytes.fromhex(frame)).hexdigest()
    except ValueError:
        return ""
