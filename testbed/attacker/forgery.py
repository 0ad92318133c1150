"""Messages signed with the wrong credential, each different: what an impersonator sends."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from chain.ledger.envelope import sign_operation
from chain.ledger.operations import AddVoucher, Grant, Revoke
from gateway.broker.security import bootstrap_id
from testbed.attacker.attacker import Attacker
from testbed.attacker.puppet import Puppet
from testbed.provision.material import Voucher

__all__ = ["escalation", "forged", "made_up"]

_SERVICES = ("valve", "heating", "door", "billing")


def forged(
    material: str, has: Mapping[str, Puppet], attacker: Attacker, rng: Random
) -> tuple[str, str, bytes]:
    """(device, kind, body): one message by what the impersonator `has`."""
    match material:
        case "self-made":
            return _self_made(attacker, rng)
        case "stolen-id":
            return _stolen_id(has["victim"], attacker, rng)
        case "wrong-purpose":
            return _wrong_purpose(has["victim"], rng)
        case "expired" | "revoked":
            thief = has[material]
            return thief.node.hex(), "op", thief.sign(thief.data(payload=_reading(rng)))
    raise AssertionError(f"no material {material}")


def _self_made(attacker: Attacker, rng: Random) -> tuple[str, str, bytes]:
    """A key of his own: data of a device that nobody admitted, or an access request with a voucher
    that nobody issued."""
    stranger = Puppet(attacker.network)
    if rng.random() < 0.5:
        return stranger.node.hex(), "op", stranger.sign(stranger.data(payload=_reading(rng)))
    return made_up(attacker, rng)


def made_up(attacker: Attacker, rng: Random) -> tuple[str, str, bytes]:
    """(device, kind, body): an access request of an identity that nobody has heard of."""
    stranger, voucher = Puppet(attacker.network), Voucher.new("mobile")
    request = stranger.enrol(voucher, attacker.head, privilege=rng.randint(1, 3))
    return bootstrap_id(voucher.id), "enrol", stranger.sign(request)


def _stolen_id(victim: Puppet, attacker: Attacker, rng: Random) -> tuple[str, str, bytes]:
    """The victim's id. The signer's key in the envelope is his own or the victim's; the signature
    is his own either way."""
    thief = Puppet(attacker.network)
    counter = victim.counter + rng.randint(1, 10**6)
    fake = victim.data(counter=counter, payload=_reading(rng))
    body = sign_operation(fake, thief.signer)
    if rng.random() < 0.5:
        mine, theirs = thief.signer.public, victim.signer.public
        assert len(mine) == len(theirs), "both are P-256 keys"
        body = body.replace(mine, theirs, 1)
    return victim.node.hex(), "op", body


def _wrong_purpose(victim: Puppet, rng: Random) -> tuple[str, str, bytes]:
    """An admitted device's own key, for what its certificate is not good for."""
    node = victim.node.hex()
    match rng.randrange(3):
        case 0:
            service = f"{rng.choice(_SERVICES)}-{rng.randrange(10**6)}"
            return node, "op", victim.sign(victim.data(service=service, payload=_reading(rng)))
        case 1:
            board = rng.randbytes(32)
            return node, "op", victim.sign(victim.data(board=board, payload=_reading(rng)))
    victim.counter += 1
    revoke = Revoke(
        network=victim.network,
        node=victim.node,
        counter=victim.counter,
        target=rng.randbytes(32),
        reason="malice",
    )
    return node, "op", victim.sign(revoke)


def escalation(
    device: Puppet, voucher: Voucher, attacker: Attacker, rng: Random
) -> tuple[str, str, bytes]:
    """(device, kind, body): an admitted device asks for what is not its right."""
    node = device.node.hex()
    what = rng.randrange(4)
    if what == 0:
        friend = Puppet(device.network)
        greedy = friend.enrol(voucher, attacker.head, privilege=rng.randint(4, 255))
        return bootstrap_id(voucher.id), "enrol", friend.sign(greedy)
    device.counter += 1
    head: dict[str, Any] = {
        "network": device.network,
        "node": device.node,
        "counter": device.counter,
    }
    if what == 1:
        rights: dict[str, Any] = {"privilege": rng.randint(2, 255), "services": ("telemetry",)}
        return node, "op", device.sign(Grant(**head, target=device.node, **rights))
    if what == 2:
        until_us = 2**50 + rng.getrandbits(40)
        rights = {"kind": "mobile", "privilege": 3, "services": ("telemetry",)}
        made = AddVoucher(**head, voucher=rng.randbytes(32), not_after_us=until_us, **rights)
        return node, "op", device.sign(made)
    return node, "op", device.sign(Revoke(**head, target=rng.randbytes(32), reason="malice"))


def _reading(rng: Random) -> bytes:
    return b"%.6f" % rng.uniform(-50, 50)
