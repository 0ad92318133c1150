"""`device.flood`: denial of service, and what it costs the attacker.

A flood is one trial, `flood/<relay>/<n>`. It succeeds if no reading of an honest device was
answered while it lasted. Goodput and p99 of honest devices, the attacker's messages and bytes stand
in `details`; which layer stopped how many, in `refused`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from testbed.campaign.injection import Attack, Injection, Judgement, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.campaign.quantities import RateField, SpanField
from testbed.checks.evidence import Evidence
from testbed.checks.logs import DataAdded, RateLimited, Requested
from testbed.checks.trials import begun_ns, details_of, lines_of

if TYPE_CHECKING:
    from testbed.attacker.flooding import Flooding

__all__ = ["Flood"]

ANSWERED_S_MIN = 1.0
"""A flood shorter than this says nothing about service."""


class Flood(Params):
    """Send as fast as `rate` for `for`. `valid`: well-signed data of an admitted device of his.
    `invalid`: messages that no admitted key signed. `oversized`: of the greatest size that the
    broker takes, which no request has. `slow`: connections that never finish their login. `storm`:
    connections with a wrong password, one after the other. The first three go through a relay's
    login. `details` has what it cost him (messages, bytes) and what honest devices had meanwhile
    (goodput per second, p99 in ms)."""

    for_: SpanField = Field(alias="for")
    rate: RateField
    how: Literal["valid", "invalid", "oversized", "slow", "storm"] = "valid"


class FloodAttack(Attack):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._flooding: Flooding | None = None
        self._running = False
        self._floods = 0

    def arm(self) -> None:
        from testbed.attacker.flooding import Flooding  # noqa: PLC0415 - only a run needs it

        self._flooding = Flooding(self.scene.deployment)

    def apply(self) -> None:
        flooding, params = self._flooding, self.scene.event.params
        assert flooding is not None, "arm was not called"
        rate = str(params["rate"])
        flooding.begin(str(params["how"]), _per_s(rate))
        self._running = True
        self._floods += 1
        self.sent(f"flood/{flooding.relay}/{self._floods}")

    def heal(self) -> None:
        if self._running and self._flooding is not None:
            self._running = False
            messages, size = self._flooding.end()
            self.sent(messages=messages, bytes=size)

    def close(self) -> None:
        if self._flooding is not None:
            self._flooding.close()


def _per_s(rate: str) -> float:
    from testbed.campaign.quantities import Rate  # noqa: PLC0415 - only a run needs it

    return Rate.parse(rate).per_s


def judge(evidence: Evidence, attack: str) -> Judgement:
    lines = lines_of(evidence, attack)
    relays = {trial.split("/")[1] for line in lines for trial in line.trials}
    refused: Counter[str] = Counter()
    seen: set[str] = set()
    answered = 0
    latencies: list[float] = []
    span_s = 0.0
    denied = 0
    for line in lines:
        begin, end = begun_ns(evidence, line), line.t
        for event in evidence.events(Requested):
            if event.relay in relays and begin <= event.t <= end:
                seen.add(line.event)
                if event.outcome != "accepted":
                    refused[f"gateway:{event.outcome.removeprefix('refused:')}"] += 1
        for limited in evidence.events(RateLimited):
            if limited.relay in relays and begin <= limited.t <= end:
                seen.add(line.event)
                refused["gateway:rate"] += limited.count
        for t, why in evidence.refused_at_broker:
            if begin <= t <= end:
                seen.add(line.event)
                refused[f"broker:{why}"] += 1
        mine = [each.latency_ms for each in evidence.events(DataAdded) if begin <= each.t <= end]
        answered += len(mine)
        latencies += mine
        span_s += (end - begin) / 1e9
        denied += not mine and (end - begin) / 1e9 > ANSWERED_S_MIN
    trials = [trial for line in lines for trial in line.trials]
    observed = [trial for line in lines if line.event in seen for trial in line.trials]
    events = {event.id for event in evidence.trial.events if event.fault == attack}
    details: dict[str, float] = dict(details_of(lines))
    if span_s:
        details["messages_per_s"] = round(details.get("messages", 0) / span_s, 1)
        details["goodput_per_s"] = round(answered / span_s, 3)
    if latencies:
        details["p99_ms"] = round(sorted(latencies)[int(0.99 * (len(latencies) - 1))], 1)
    return Judgement(
        trials=len(trials),
        observed=len(observed),
        distinct=len(set(observed)),
        successes=denied,
        refused=dict(sorted(refused.items())),
        attempts_unseen=len(events - seen),
        details=details,
    )


def _make(scene: Scene) -> Injection:
    return FloodAttack(scene)


register(
    Kind(
        "device.flood",
        Flood,
        category="attack",
        layer="device",
        summary="denial of service: valid, invalid or oversized messages, slow or many connections",
        mechanisms=(Mechanism("broker", _make),),
        judge=judge,
        seen="gateway or broker log what they refuse or take",
    )
)
