"""A stolen store: somebody reads the whole store of the service, and acts as its devices.

With a provider that keeps the devices' keys, each device can be impersonated. On the chain the
thief has every ledger, and no key in it: he can only sign with a key of his own.
"""

from __future__ import annotations

from pydantic import Field

from testbed.campaign.injection import Injection, Judgement, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.evidence import Evidence
from testbed.checks.logs import Requested
from testbed.checks.trials import Tried, judge_recorded

__all__ = ["StolenStore"]


_PROVE_NOTHING = frozenset({"", "accepted", "refused:old-counter"})


class StolenStore(Params):
    """Read everything that the service stores, and send data as its devices. From an escrow he has
    each device's key. From the chain he has the ids of devices but no key, and signs with his own
    key. An event sends `batch` messages."""

    batch: int = Field(default=10, ge=1, le=500)


def _judge(evidence: Evidence, attack: str) -> Judgement:
    """A trial succeeds if its record takes effect, and counts once."""
    used = {event.mechanism for event in evidence.trial.events if event.fault == attack}
    judge = _judge_taken if used == {"escrow"} else judge_recorded
    return judge(evidence, attack)


def _judge_taken(evidence: Evidence, attack: str) -> Judgement:
    """A trial succeeds if the provider accepted it as the device's. Trials are ids of requests. One
    that the device's own next reading overtook proves nothing, and neither does one that the
    provider took, but had not stored when it was killed."""
    tried = Tried(evidence, attack)
    outcomes = {event.id: event.outcome for event in evidence.events(Requested)}
    taken = {entry.statement.request.hex() for entry in evidence.longest.entries}
    for line in tried.lines:
        arrived = []
        for trial in line.trials:
            outcome = outcomes.get(trial, "")
            if outcome.startswith("refused:"):
                tried.refused[f"provider:{outcome.removeprefix('refused:')}"] += 1
            if trial in taken or outcome not in _PROVE_NOTHING:
                arrived.append(trial)
        tried.see(line, arrived)
    return tried.judgement(len(taken.intersection(tried.trials)))


def _make(scene: Scene) -> Injection:
    from testbed.attacker.theft import THEFTS  # noqa: PLC0415 - only a run needs it

    return THEFTS[scene.event.mechanism](scene)


register(
    Kind(
        "store.steal",
        StolenStore,
        category="attack",
        layer="identity",
        summary="reads all that the service stores, and uses it to send data as its devices",
        mechanisms=(
            Mechanism("ledgers", _make, systems=("chain",)),
            Mechanism("escrow", _make, systems=("baseline",)),
        ),
        judge=_judge,
        seen="gateway or provider log each message",
    )
)
