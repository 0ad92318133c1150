"""Judges what was tried at the broker's door, from what the broker said and logged.

A trial's id is `broker/<what>/<n>:<answer>`. The answer is the broker's: `accepted`, a denial, or
nothing if it closed the connection; then its own log must have the refusal, or the trial proves
nothing. Whatever was accepted is a success.
"""

from __future__ import annotations

from collections import Counter

from testbed.campaign.injection import Judgement
from testbed.checks.evidence import Evidence
from testbed.checks.trials import begun_ns, details_of, lines_of

__all__ = ["judge_at_door"]


def judge_at_door(evidence: Evidence, attack: str) -> Judgement:
    lines = lines_of(evidence, attack)
    unseen = {event.id for event in evidence.trial.events if event.fault == attack}
    observed: list[str] = []
    refused: Counter[str] = Counter()
    for line in lines:
        since_ns = begun_ns(evidence, line)
        logged = [why for t, why in evidence.refused_at_broker if since_ns <= t <= line.t + 10**9]
        for trial in line.trials:
            answer = trial.rpartition(":")[2]
            if not answer and not logged:
                continue
            observed.append(trial)
            unseen.discard(line.event)
            if answer != "accepted":
                refused[f"broker:{answer or logged.pop(0)}"] += 1
    return Judgement(
        trials=sum(len(line.trials) for line in lines),
        observed=len(observed),
        distinct=len({trial.rpartition(":")[0] for trial in observed}),
        successes=sum(trial.endswith(":accepted") for trial in observed),
        refused=dict(sorted(refused.items())),
        attempts_unseen=len(unseen),
        details=details_of(lines),
    )
