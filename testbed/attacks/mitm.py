"""A man in the middle of a device's connection to the broker: `device.mitm`.

With a TLS broker nobody can read or alter anything there: the attack is skipped. In every stage the
man is a switch of the device's process (`nodes.switch.middle`), with real sockets on both sides. An
altered value in a record is a success. Dropping or delaying a message succeeds if the device holds
a receipt for a request that is not on the chain, or if the request took effect twice. It counts as
seen if the gateway's log confirms it: the message did not come meanwhile, or came late.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from inventory.model import Lab
from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Attack, Judgement, Scene
from testbed.campaign.kinds import Kind, Mechanism, OnProcesses, register
from testbed.campaign.quantities import Duration, SpanField
from testbed.checks.evidence import Evidence
from testbed.checks.logs import DataAdded, DeniedUnproven, DeviceAdmitted, FalseAnswer, Requested
from testbed.checks.trials import Tried, judge_recorded

if TYPE_CHECKING:
    from testbed.faults.switch import SwitchOrder
    from testbed.provision.deployment import Deployment
    from testbed.provision.layout import Node

__all__ = ["Mitm"]

SENT = "middle.jsonl"


class Mitm(OnProcesses):
    """Stand between devices `on` and the broker until `for` has passed. `alter`: before each
    message that the device publishes, `copies` altered ones arrive in its name; the seed draws
    field, byte offset and key. `downgrade`: they name a weaker algorithm or have no signature.
    `reflect`: the gateway's answers are sent up as requests. `drop`: messages are taken away and
    acknowledged. `answer`: they are taken away, and `copies` false receipts and denials come in the
    gateway's place. `delay`: each waits for `by`."""

    how: Literal["alter", "downgrade", "reflect", "drop", "delay", "answer"] = "alter"
    copies: int = Field(default=5, ge=1, le=100)
    by: SpanField = Duration.parse_span("500ms")


class MitmAttack(Attack):
    """One object for all events: an order per device, taken back by `heal`."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._orders: list[SwitchOrder] = []
        self._read: dict[str, int] = {}  # lines of each device's file that were reported already

    def apply(self) -> None:
        from testbed.faults.switch import SwitchOrder  # noqa: PLC0415 - only a run needs it

        params = self.scene.event.params
        for node in self.scene.nodes("on"):
            order = SwitchOrder(self.scene, node, "middle")
            self._orders.append(order)
            order.arm()
            order.give(
                {
                    "how": params["how"],
                    "seed": self.scene.rng.getrandbits(31),
                    "copies": params["copies"],
                    "delay_ms": params["by_ms"],
                }
            )
        self.sent()

    def heal(self) -> None:
        for order in self._orders:
            order.take_back()
        self._orders = []
        for node in self.scene.nodes("on"):
            self._report_new(node)

    def _report_new(self, node: Node) -> None:
        host = self.scene.deployment.host(node)
        if not host.exists(node.file(SENT)):
            return
        every = [json.loads(line) for line in host.get(node.file(SENT)).splitlines()]
        mine = [each for each in every if each["order"] == f"middle.{self.scene.event.id}.json"]
        new = mine[self._read.get(node.name, 0) :]
        self._read[node.name] = len(mine)
        self.sent(
            *(f"{each['request']}/{each['body']}" for each in new),
            **Counter(str(each["what"]) for each in new),
        )


def judge(evidence: Evidence, attack: str) -> Judgement:
    """Judges altered bytes by `judge_recorded`, and dropped or delayed messages by the device's
    receipts."""
    tried = Tried(evidence, attack)
    if not tried.params("how") & {"drop", "delay", "answer"}:
        return judge_recorded(evidence, attack)
    held_up = _HeldUp(evidence)
    for line in tried.lines:
        event = tried.events.get(line.event)
        asked = [trial.partition("/")[0] for trial in line.trials]
        if event is not None and event.params["how"] == "delay":
            late_ms = float(str(event.params["by_ms"]))
            tried.see(line, [each for each in asked if held_up.is_late(each, late_ms)])
        else:
            window = tried.begun_ns(line), line.t
            gone = [each for each in asked if held_up.did_not_come(each, *window)]
            if event is not None and event.params["how"] == "answer":
                refused = _refused_answers(evidence, *window)
                tried.refused += refused
                gone = gone if refused else []
            tried.see(line, gone)
    requests = {trial.partition("/")[0] for trial in tried.trials}
    on_chain = Counter(
        entry.statement.request.hex() for entry in evidence.longest.entries if entry.took_effect
    )
    lied = {each for each in requests if each in held_up.asked_ns and not on_chain[each]}
    twice = {each for each in requests if on_chain[each] > 1}
    recorded = len(requests & on_chain.keys())
    return tried.judgement(len(lied | twice), **{"recorded all the same": recorded})


def _refused_answers(evidence: Evidence, begin_ns: int, end_ns: int) -> Counter[str]:
    """Answers that devices refused meanwhile, by "device:reason"."""
    counted: Counter[tuple[str, str]] = Counter()
    refused: Counter[str] = Counter()
    for event in (*evidence.events(FalseAnswer), *evidence.events(DeniedUnproven)):
        assert isinstance(event, FalseAnswer | DeniedUnproven)
        more = event.count - counted[event.node, event.reason]
        counted[event.node, event.reason] = event.count
        if begin_ns <= event.t <= end_ns:
            refused[f"device:{event.reason}"] += more if more > 0 else event.count
    return refused


class _HeldUp:
    """What gateway and devices logged of messages that he dropped or delayed: his own word is not
    enough. `asked_ns`: when a device asked, by the ids of requests for which it has a receipt."""

    def __init__(self, evidence: Evidence) -> None:
        self._arrivals: dict[str, list[int]] = {}
        for event in evidence.events(Requested):
            self._arrivals.setdefault(event.id, []).append(event.t)
        self.asked_ns: dict[str, int] = {}
        for answer in (*evidence.events(DeviceAdmitted), *evidence.events(DataAdded)):
            assert isinstance(answer, DeviceAdmitted | DataAdded)
            self.asked_ns[answer.id] = answer.t - round(answer.latency_ms * 1e6)

    def did_not_come(self, request: str, begin_ns: int, end_ns: int) -> bool:
        """Whether the request came at another time (so a device made it), but not in between."""
        arrivals = self._arrivals.get(request, [])
        return bool(arrivals) and not any(begin_ns <= t <= end_ns for t in arrivals)

    def is_late(self, request: str, late_ms: float) -> bool:
        """Whether it came at least so much later than its device sent it."""
        arrivals, asked_ns = self._arrivals.get(request), self.asked_ns.get(request)
        if not arrivals or asked_ns is None:
            return False
        return min(arrivals) - asked_ns >= late_ms * 1e6


def in_the_clear(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    if lab.broker_kind() == "mosquitto":
        return "the broker speaks TLS, so nobody stands in between; an embedded broker has none"
    return None


def equip(deployment: Deployment) -> None:
    """Every device gets a switch and a man in the middle, who passes everything on while he has no
    order."""
    from testbed.faults.switch import equip as with_switch  # noqa: PLC0415 - only a run needs it

    with_switch(deployment)
    log_refusals(deployment)
    for node in (*deployment.with_role("mobile"), *deployment.with_role("environment")):
        deployment.configure(node, middle=True)


register(
    Kind(
        "device.mitm",
        Mitm,
        category="attack",
        layer="device",
        summary="somebody between device and broker alters, holds back or answers messages",
        mechanisms=(Mechanism("switch", MitmAttack, available=in_the_clear, equip=equip),),
        judge=judge,
        seen="the gateway logs each message",
    )
)
