"""Replay: messages overheard at the broker and on the serial lines are sent again, unchanged.

The attacker is a compromised relay. It hears what devices send to relays and what relays publish,
and it may publish as a relay does. So the broker does not stop it. On the serial lines it repeats
the boards' frames towards their hosts. It succeeds if anything is recorded twice.

The parameters of a campaign are here; `attack` carries it out, `judge` judges the outcome.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.attacks.replay.judge import judge
from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register

__all__ = ["Replay"]


class Replay(Params):
    """Send captured messages again, unchanged: per event up to `batch` from the broker and `batch`
    frames from each serial line, drawn by the seed. `window` says which messages: `inside` the
    window of blocks in which the head of an access request is accepted, or `beyond` it; from an
    `other-session` than the one that is open now (boards are reset for that); or from before the
    newest start of a gateway or replica (`after-restart`: let the campaign crash one too)."""

    source: Literal["captured"] = "captured"
    window: Literal["any", "inside", "beyond", "other-session", "after-restart"] = "any"
    batch: int = Field(default=25, ge=1, le=500)
    messages: tuple[Literal["admission", "data", "serial"], ...] = Field(
        default=("admission", "data", "serial"),
        min_length=1,
        json_schema_extra={"uniqueItems": True},
    )


def _make(scene: Scene) -> Injection:
    from testbed.attacks.replay.attack import ReplayAttack  # noqa: PLC0415 - only a run needs it

    return ReplayAttack(scene)


register(
    Kind(
        "device.replay",
        Replay,
        category="attack",
        layer="device",
        summary="messages captured from broker and serial line are sent again, unchanged",
        mechanisms=(Mechanism("broker-and-cable", _make, equip=log_refusals),),
        judge=judge,
        seen="gateway or serial tap log each arrival",
    )
)
