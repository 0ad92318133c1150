"""`device.topic-hijack`: an admitted device publishes on topics of others."""

from __future__ import annotations

from pydantic import Field

from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.door import judge_at_door

__all__ = ["TopicHijack"]


class TopicHijack(Params):
    """With an admitted device's login, publish on the topics of another relay, of the gateway's
    answers to another device, of the chain's head, of another node's status, of another network,
    and of the broker's control: `batch` per event, drawn by the seed. An acknowledged message is a
    success."""

    batch: int = Field(default=6, ge=1, le=100)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.at_the_door import HijackAttack  # noqa: PLC0415 - only a run needs it

    return HijackAttack(scene)


register(
    Kind(
        "device.topic-hijack",
        TopicHijack,
        category="attack",
        layer="device",
        summary="publishes on topics of other devices, relays, the gateway and the broker",
        mechanisms=(Mechanism("broker", _make),),
        judge=judge_at_door,
        seen="the broker answers, or logs the refusal",
    )
)
