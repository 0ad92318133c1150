"""Replay: what was overheard on the broker and on the serial lines is sent again, unchanged.

The attacker is a compromised relay. It hears what devices hand to relays and what relays publish,
and it may publish as a relay does, so nothing at the broker's door stops it. On the serial lines
it repeats the boards' frames towards their hosts. It succeeds if anything is recorded twice.

Here is what a campaign says; `attack` does it, `judge` looks at what came of it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.attacks.replay.judge import judge
from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register

__all__ = ["Replay"]


class Replay(Params):
    """Send captured messages again, unchanged."""

    source: Literal["captured"] = "captured"
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
        mechanisms=(Mechanism("broker-and-cable", _make),),
        judge=judge,
        seen="gateway or serial tap log each arrival",
    )
)
