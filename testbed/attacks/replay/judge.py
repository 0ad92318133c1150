"""Judges a replay from ledgers and logs alone: the messages sent, arrived, and in effect.

A trial's id names the message, followed by "#n": `<request id>@<relay>` in hex for a message that
the attacker published as that relay, or `serial/<board>/<SHA-256 of the frame>` for a frame on a
board's line. It counts as observed if its receiver logged its arrival after the attempt began. The
receiver is the gateway (for this relay only: a device that asks again through another relay is no
attack) or the tap on the serial line. A trial that was not seen to arrive proves nothing, and
neither does one for which the gateway had no room.
"""

from __future__ import annotations

from collections import Counter, deque
from hashlib import sha256

from testbed.campaign.injection import Judgement
from testbed.checks.evidence import Evidence
from testbed.checks.logs import GroupDenied, Requested
from testbed.checks.properties import repeated_readings
from testbed.checks.trials import NO_ROOM, Tried, refused_on_lines

__all__ = ["judge"]

SERIAL = "serial/"


def judge(evidence: Evidence, attack: str) -> Judgement:
    """`distinct` counts the different messages among the observed trials. `successes` counts the
    extra records of those requests, and the repeated readings of those boards on the chain."""
    tried = Tried(evidence, attack)
    arrivals = _Arrivals(evidence, tried.trials)
    for line in tried.lines:
        since_ns = tried.begun_ns(line)
        sent = map(_message, line.trials)
        tried.see(line, [each for each in sent if arrivals.take(each, since_ns)])
    messages = set(map(_message, tried.trials))
    tried.refused.update(_refused(evidence, messages, tried.since_ns))
    tried.refused.update(arrivals.reasons)
    return tried.judgement(_successes(evidence, messages))


class _Arrivals:
    """When and how each message arrived. Each arrival counts for one trial only."""

    def __init__(self, evidence: Evidence, trials: list[str]) -> None:
        self.reasons: Counter[str] = Counter()
        self._times: dict[str, deque[tuple[int, str]]] = {}
        messages = {_message(trial) for trial in trials}
        for event in evidence.events(Requested):
            message = f"{event.id}@{event.relay}"
            if message in messages and event.outcome not in NO_ROOM:
                reason = event.outcome.removeprefix("refused:")
                self._times.setdefault(message, deque()).append((event.t, f"gateway:{reason}"))
        for board in sorted({_board(message) for message in messages} - {None}, key=str):
            for frame in evidence.serial(board or ""):
                message = f"{SERIAL}{board}/{_digest(frame.frame)}"
                if frame.dir == "from-board" and message in messages:
                    self._times.setdefault(message, deque()).append((frame.t, ""))

    def take(self, message: str, since_ns: int) -> bool:
        """Whether `message` arrived at or after `since_ns` and no other trial has used that
        arrival. Uses it."""
        times = self._times.get(message)
        while times:
            t, reason = times.popleft()
            if t >= since_ns:
                if reason not in ("", "gateway:accepted"):
                    self.reasons[reason] += 1
                return True
        return False


def _refused(evidence: Evidence, messages: set[str], since_ns: int) -> Counter[str]:
    """Refusals by everybody except the gateway, by layer and reason. Serial refusals do not name
    their frame: all on the attacked lines since the first attempt are counted."""
    requests = set(map(_request, messages))
    boards = {board for message in messages if (board := _board(message)) is not None}
    refused = refused_on_lines(evidence, boards, since_ns)
    for denied in evidence.events(GroupDenied):
        if denied.id in requests and denied.t >= since_ns:
            refused[f"group:{denied.reason}"] += 1
    for entry in evidence.longest.entries:
        status = entry.statement.status
        if status.startswith("refused:") and entry.statement.request.hex() in requests:
            refused[f"ledger:{status.removeprefix('refused:')}"] += 1
    return refused


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
    """The trial's message, without the number of the trial."""
    return trial.rpartition("#")[0] or trial


def _request(message: str) -> str:
    """The id of the request, without the relay."""
    return message.partition("@")[0]


def _board(message: str) -> str | None:
    return message.split("/")[1] if message.startswith(SERIAL) else None


def _digest(frame: str) -> str:
    try:
        return sha256(bytes.fromhex(frame)).hexdigest()
    except ValueError:
        return ""
