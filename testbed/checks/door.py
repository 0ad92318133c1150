"""Judges tries at the broker's door, from the broker's answers and log.

A trial's id is `broker/<what>/<n>/<senders>:<answer>`. The broker's answer is `accepted`, a denial,
or nothing if it closed the connection; then its own log must have the refusal, or the trial proves
nothing. A connection that was ended for its slowness, or because there were too many, proves
nothing either. `senders` are the names that the log may have for the attacker, separated by `,`:
his client id, his login and his address. Each accepted try is a success.
"""

from __future__ import annotations

from testbed.campaign.injection import Judgement
from testbed.checks.evidence import BrokerRefusal, Evidence
from testbed.checks.logs import AttackLine
from testbed.checks.trials import Tried

__all__ = ["judge_at_door"]

LOGGED_LATE_NS_MAX = 10**9
"""A refusal may be logged so long after its attempt."""

_NOT_JUDGED = frozenset(
    {"connect-aborted", "connect-timeout", "connections-full", "handshakes-full", "too-late"}
)
"""Refusals that say nothing about who he is and what he may."""


def judge_at_door(evidence: Evidence, attack: str) -> Judgement:
    tried = Tried(evidence, attack)
    logged = [each for each in evidence.refused_at_broker if each.reason not in _NOT_JUDGED]
    successes = 0
    for line in tried.lines:
        arrived = []
        for trial in line.trials:
            name, _, answer = trial.rpartition(":")
            reason = answer or _take(logged, name, tried.begun_ns(line), line)
            if reason:
                arrived.append(trial)
            if reason == "accepted":
                successes += 1
            elif reason:
                tried.refused[f"broker:{reason}"] += 1
        tried.see(line, arrived)
    return tried.judgement(successes)


def _take(logged: list[BrokerRefusal], name: str, since_ns: int, line: AttackLine) -> str:
    """The reason of the trial's refusal; "" if none is logged. Removes it, so that it counts for no
    other trial."""
    senders = name.rpartition("/")[2].split(",")
    until_ns = line.t + LOGGED_LATE_NS_MAX
    for each in logged:
        if each.may_be(senders) and since_ns <= each.t <= until_ns:
            logged.remove(each)
            return each.reason
    return ""
