"""`device.takeover`: somebody connects with a device's client id, to push it off the broker."""

from __future__ import annotations

from pydantic import Field

from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.door import judge_at_door

__all__ = ["Takeover"]


class Takeover(Params):
    """Connect with the client id of a device of the lab: with a login of his own, or as that
    device with guessed passwords, `batch` times per event. MQTT would end the device's connection.
    Being let in is a success."""

    batch: int = Field(default=4, ge=1, le=100)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.at_the_door import TakeoverAttack  # noqa: PLC0415 - only a run needs it

    return TakeoverAttack(scene)


register(
    Kind(
        "device.takeover",
        Takeover,
        category="attack",
        layer="device",
        summary="connects under the client id of a device, with his own login or guessed passwords",
        mechanisms=(Mechanism("broker", _make),),
        judge=judge_at_door,
        seen="the broker answers, or logs the refusal",
    )
)
