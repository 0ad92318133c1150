"""Judges attacks: each kind of attack brings its own judge, which knows what counts as a success.

Judging imports the kinds of attacks, which are light, and none of what carries an attack out.
"""

from __future__ import annotations

from testbed.campaign.injection import Judgement
from testbed.campaign.kinds import attack_kinds
from testbed.checks.evidence import Evidence

__all__ = ["attack_ids", "judge"]


def attack_ids(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """(id, kind) of the schedule's attacks, in the order of their first attempt."""
    events = evidence.trial.events
    attacks = (each for each in events if each.category == "attack" and each.skipped is None)
    return tuple(dict.fromkeys((event.fault, event.kind) for event in attacks))


def judge(evidence: Evidence, attack: str, kind: str) -> Judgement | None:
    """What the kind's own judge says. None: this version has no kind of that name with these
    parameters, because another one made the bundle."""
    known = attack_kinds().get(kind)
    events = [each for each in evidence.trial.events if each.fault == attack]
    if known is None or any(known.unfit(each.params) for each in events):
        return None
    assert known.judge is not None, f"{kind} was registered without a judge"
    return known.judge(evidence, attack)
