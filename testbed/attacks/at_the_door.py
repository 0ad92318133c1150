"""Attacks at the broker's door, by an admitted device: `device.takeover`, `device.topic-hijack` and
`device.eavesdrop`."""

from __future__ import annotations

from pydantic import Field

from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.door import judge_at_door

__all__ = ["Eavesdrop", "Takeover", "TopicHijack"]


class Takeover(Params):
    """Connect with the client id of a device of the lab: with a login of his own, or as that
    device with guessed passwords, `batch` times per event. MQTT would end the device's connection.
    Being let in is a success."""

    batch: int = Field(default=4, ge=1, le=100)


class TopicHijack(Params):
    """With an admitted device's login, publish on the topics of another relay, of the gateway's
    answers to another device, of the chain's head, of another node's status, of another network,
    and of the broker's control: `batch` per event, drawn by the seed. An acknowledged message is a
    success."""

    batch: int = Field(default=6, ge=1, le=100)


class Eavesdrop(Params):
    """Subscribe, with an admitted device's login, to wildcards and to other devices' answers:
    `batch` filters per event. A granted filter is a success. Payloads are not confidential by
    design: `details` has what a relay may read (messages and bytes of requests that a relay's login
    heard since the run began)."""

    batch: int = Field(default=6, ge=1, le=100)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.at_the_door import ATTACKS  # noqa: PLC0415 - only a run needs it

    return ATTACKS[scene.event.kind](scene)


for _name, _params, _summary in (
    (
        "device.takeover",
        Takeover,
        "connects under the client id of a device, with his own login or guessed passwords",
    ),
    (
        "device.topic-hijack",
        TopicHijack,
        "publishes on topics of other devices, relays, the gateway and the broker",
    ),
    (
        "device.eavesdrop",
        Eavesdrop,
        "subscribes to wildcards and to other devices' answers; reports what a relay can read",
    ),
):
    register(
        Kind(
            _name,
            _params,
            category="attack",
            layer="device",
            summary=_summary,
            mechanisms=(Mechanism("broker", _make),),
            judge=judge_at_door,
            seen="the broker answers, or logs the refusal",
        )
    )
