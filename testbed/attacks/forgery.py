"""Messages signed with the wrong credential, or for more than the signer's rights:
`device.impersonate`, `device.escalate` and `device.sybil`.

He has a relay's login, so nothing at the broker stops him. One record that takes effect is a
success. The judge looks for exactly the bytes that he sent: `testbed.checks.trials`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.attacker.equip import log_refusals
from testbed.campaign.injection import Injection, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.trials import judge_recorded

__all__ = ["Escalate", "Impersonate", "Sybil"]

Means = Literal["self-made", "stolen-id", "expired", "revoked", "wrong-purpose"]


class Impersonate(Params):
    """Act as another device. `material` is what the attacker has: `self-made` keys and vouchers
    that nobody issued; `stolen-id`, the id of an admitted device, with a signature by his own key;
    the key of an `expired` or of a `revoked` device; or an admitted device's key used for the
    `wrong-purpose`: another service, board, or administration. Each message differs in key, counter
    or content, drawn by the seed. An event sends `batch` of each material."""

    material: tuple[Means, ...] = Field(
        default=("self-made", "stolen-id", "expired", "revoked", "wrong-purpose"),
        min_length=1,
        json_schema_extra={"uniqueItems": True},
    )
    batch: int = Field(default=10, ge=1, le=500)


class Escalate(Params):
    """With an admitted device's own key, ask for a higher privilege for itself, a voucher for a
    friend, or the revocation of another device; also ask for access with a privilege above the
    voucher's. `batch` of them per event, drawn by the seed. One record that takes effect is a
    success."""

    batch: int = Field(default=10, ge=1, le=500)


class Sybil(Params):
    """Ask for access in the name of `batch` made-up identities per event, each with a new key and
    a voucher that nobody issued. What stops them is that a voucher is a right on the chain. One
    admitted identity is a success."""

    batch: int = Field(default=50, ge=1, le=500)


def _make(scene: Scene) -> Injection:
    from testbed.attacker.with_attacker import ATTACKS  # noqa: PLC0415 - only a run needs it

    return ATTACKS[scene.event.kind](scene)


for _name, _params, _summary in (
    (
        "device.impersonate",
        Impersonate,
        "acts as a device with a made-up, stolen, expired, revoked or misused credential",
    ),
    (
        "device.escalate",
        Escalate,
        "an admitted device asks for privileges, vouchers and revocations without a right",
    ),
    (
        "device.sybil",
        Sybil,
        "many made-up identities ask for access with vouchers that nobody issued",
    ),
):
    register(
        Kind(
            _name,
            _params,
            category="attack",
            layer="identity",
            summary=_summary,
            mechanisms=(Mechanism("relay", _make, equip=log_refusals),),
            judge=judge_recorded,
            seen="the gateway logs each message",
        )
    )
