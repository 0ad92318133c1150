"""`device.eavesdrop`: an admitted device subscribes to topics that it may not read, a relay to
those that it may."""

from __future__ import annotations

from pydantic import Field

from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.door import judge_at_door

__all__ = ["Eavesdrop"]


class Eavesdrop(Params):
    """Subscribe, with an admitted device's login, to wildcards and to other devices' answers:
    `batch` filters per event. A granted filter is a success. Payloads are not confidential by
    design: `details` has what a relay may read (messages and bytes of requests that a relay's login
    heard since the run began)."""

    batch: int = Field(default=6, ge=1, le=100)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.at_the_door import EavesdropAttack  # noqa: PLC0415 - only a run needs it

    return EavesdropAttack(scene)


register(
    Kind(
        "device.eavesdrop",
        Eavesdrop,
        category="attack",
        layer="device",
        summary="subscribes to wildcards and to other devices' answers; says what a relay can read",
        mechanisms=(Mechanism("broker", _make),),
        judge=judge_at_door,
        seen="the broker answers, or logs the refusal",
    )
)
