"""`device.flood`: denial of service, and its cost for the attacker.

A flood is one trial, `flood/<relay>/<n>`. It succeeds if no reading of an honest device was
answered while it lasted. `details` has goodput and p99 of honest devices, and the attacker's
messages and bytes; `refused` counts the messages that each layer stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from testbed.campaign.injection import Attack, Judgement, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.campaign.quantities import Rate, RateField, SpanField
from testbed.checks.counted import Counted
from testbed.checks.evidence import Evidence
from testbed.checks.logs import DataAdded, Late, RateLimited, Requested
from testbed.checks.trials import Tried

if TYPE_CHECKING:
    from testbed.attacker.flooding import Flooding
    from testbed.provision.deployment import Deployment

__all__ = ["Flood"]

PROVIDER = "provider"
WORKED_OFF_NS_MAX = 5 * 10**9
_AT_BROKER = frozenset({"slow", "storm"})
"""Floods that never come as far as a gateway. Others are seen there: a refusal at the broker may
be of anybody."""
ANSWERED_S_MIN = 1.0
"""If nothing was answered during a shorter flood, it says nothing about service."""


class Flood(Params):
    """Send as fast as `rate` for `for`. `valid`: well-signed data of an admitted device of his.
    `invalid`: messages that no admitted key signed. `oversized`: messages of the greatest size that
    the broker takes; no request is that large. `slow`: connections that never finish their login.
    `storm`: connections with a wrong password, one after the other. The first three go through a
    relay's login; on the baseline they are calls of a device that the provider knows. `details` has
    the attacker's cost (messages, bytes) and the service of honest devices meanwhile (goodput per
    second, p99 in ms)."""

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
        self._flooding = _flooding(self.scene.deployment, self.scene.event.mechanism)

    def apply(self) -> None:
        flooding, params = self._flooding, self.scene.event.params
        assert flooding is not None, "arm was not called"
        flooding.begin(str(params["how"]), Rate.parse(str(params["rate"])).per_s)
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


def _flooding(deployment: Deployment, mechanism: str) -> Flooding:
    if mechanism == PROVIDER:
        from testbed.attacker.flooding_provider import (  # noqa: PLC0415 - only a run needs it
            ProviderFlooding,
        )

        return ProviderFlooding(deployment)
    from testbed.attacker.flooding import Flooding  # noqa: PLC0415 - see above

    return Flooding(deployment)


def judge(evidence: Evidence, attack: str) -> Judgement:
    tried = Tried(evidence, attack)
    relays = {trial.split("/")[1] for trial in tried.trials}
    counted = Counted(evidence.run.raw)
    seen: set[str] = set()
    answered = denied = 0
    latencies: list[float] = []
    span_s = 0.0
    came = [each.t for each in evidence.events(Requested) if each.relay in relays]
    came += [each.t for each in evidence.events(RateLimited) if each.relay in relays]
    for line in tried.lines:
        begin, end = tried.begun_ns(line), line.t
        refused = counted.refused(begin, _until_ns(evidence, end))
        tried.refused.update(refused)
        event = tried.events.get(line.event)
        ends_at_broker = event is not None and event.params["how"] in _AT_BROKER
        stopped = ends_at_broker and any(reason.startswith("broker:") for reason in refused)
        arrived = stopped or any(begin <= t <= end for t in came)
        mine = sum(begin <= each.t <= end for each in evidence.events(DataAdded))
        tells = mine > 0 or (end - begin) / 1e9 > ANSWERED_S_MIN
        if arrived and tells:
            seen.add(line.event)
        answered += mine
        latencies += _honest(evidence, begin, end)
        span_s += (end - begin) / 1e9
        denied += not mine and tells
    for line in tried.lines:
        tried.see(line, line.trials if line.event in seen else ())
    figures: dict[str, float] = {}
    if span_s:
        figures["messages_per_s"] = round(tried.details.get("messages", 0) / span_s, 1)
        figures["goodput_per_s"] = round(answered / span_s, 3)
    if latencies:
        figures["p99_ms"] = round(sorted(latencies)[int(0.99 * (len(latencies) - 1))], 1)
    return tried.judgement(denied, **figures)


def _until_ns(evidence: Evidence, end: int) -> int:
    """Refusals until then count for this flood, because a gateway still works off its queue, and
    logs its sums once a second. From the start of the next attack on they count for that one."""
    starts = (
        (evidence.start_ns or 0) + event.at_ms * 1_000_000
        for event in evidence.trial.events
        if event.category == "attack"
    )
    return min([end + WORKED_OFF_NS_MAX, *(start for start in starts if start > end)])


def _honest(evidence: Evidence, begin: int, end: int) -> list[float]:
    """Latencies in ms of the readings that were due in between. A reading without an answer counts
    with the workload's timeout."""
    took: dict[tuple[str, str | None, int], float] = {}
    for answer in evidence.events(DataAdded):
        if begin <= answer.intended_ns < end:
            took[answer.node, answer.source, answer.intended_ns] = answer.latency_ms
    for late in evidence.events(Late):
        if begin <= late.intended_ns < end:
            timeout_ms = evidence.schedule.workload.timeout_ms
            took.setdefault((late.node, late.source, late.intended_ns), timeout_ms)
    return list(took.values())


register(
    Kind(
        "device.flood",
        Flood,
        category="attack",
        layer="device",
        summary="denial of service: valid, invalid or oversized messages, slow or many connections",
        mechanisms=(
            Mechanism("broker", FloodAttack, systems=("chain",)),
            Mechanism(PROVIDER, FloodAttack, systems=("baseline",)),
        ),
        judge=judge,
        seen="gateway or broker log refused or accepted messages",
    )
)
