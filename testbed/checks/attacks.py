"""Judges attacks: each kind of attack brings its own judge, which defines a success.

Judging imports the kinds of attacks, which are light, but not the code that carries an attack out.
"""

from __future__ import annotations

from testbed.campaign.injection import Judgement
from testbed.campaign.kinds import attack_kinds
from testbed.checks.evidence import Evidence

__all__ = ["attack_ids", "judge", "not_judged"]


def attack_ids(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """(id, kind) of the schedule's attacks, in the order of their first attempt."""
    events = evidence.trial.events
    attacks = (each for each in events if each.category == "attack" and each.skipped is None)
    return tuple(dict.fromkeys((event.fault, event.kind) for event in attacks))


def not_judged(evidence: Evidence, attack: str, kind: str) -> str | None:
    """Why there is no verdict; None if the kind's own judge gives one. Another version may have
    made the bundle, or a stranger."""
    known = attack_kinds().get(kind)
    if known is None:
        return f"this version has no kind {kind} to judge it by"
    events = (each for each in evidence.trial.events if each.fault == attack)
    return next((f"{kind}: {why}" for each in events if (why := known.unfit(each.params))), None)


def judge(evidence: Evidence, attack: str, kind: str) -> Judgement | None:
    """The judgement of the kind's own judge; None if there is none (`not_judged`)."""
    if not_judged(evidence, attack, kind) is not None:
        return None
    known = attack_kinds()[kind]
    assert known.judge is not None, f"{kind} was registered without a judge"
    return known.judge(evidence, attack)
