"""Messages signed with the wrong credential, by name: those of an impersonator, and those of an
admitted device that asks for more than its rights. Each message differs; the seed decides how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from chain.ledger.envelope import sign_operation
from chain.ledger.operations import AddVoucher, Grant, Revoke
from gateway.broker.security import bootstrap_id
from testbed.attacker.attacker import Attacker
from testbed.attacker.puppet import Puppet
from testbed.provision.material import Voucher

__all__ = ["ESCALATIONS", "EXPIRED_AFTER_S", "FORGERIES", "Hand", "Message", "made_up"]

EXPIRED_AFTER_S = 1
_SERVICES = ("valve", "heating", "door", "billing")

Message = tuple[str, str, bytes]
"""(device, kind, body)"""


@dataclass(frozen=True)
class Hand:
    """What he has: three devices of his own (admitted, expired, revoked), and a voucher that is
    good for privilege 3."""

    attacker: Attacker
    rng: Random
    devices: Mapping[str, Puppet]
    voucher: Voucher

    @classmethod
    def of(cls, attacker: Attacker, rng: Random) -> Hand:
        """Call it well before the first use: one certificate must expire meanwhile."""
        devices = {
            "admitted": attacker.admitted(),
            "expired": attacker.admitted(validity_s=EXPIRED_AFTER_S),
            "revoked": attacker.revoked(),
        }
        return cls(attacker, rng, devices, attacker.voucher())

    def one_of(self, ways: Mapping[str, Callable[[Hand], Message]]) -> Message:
        return self.rng.choice([*ways.values()])(self)

    def data(self, device: str, **changes: Any) -> Message:
        """A reading, signed with the key of one of his devices."""
        puppet = self.devices[device]
        data = puppet.data(payload=self.reading(), **changes)
        return puppet.node.hex(), "op", puppet.sign(data)

    def operation(self, make: Callable[..., Any], **fields: Any) -> Message:
        """Any other operation of his admitted device."""
        puppet = self.devices["admitted"]
        return puppet.node.hex(), "op", puppet.sign(puppet.operation(make, **fields))

    def reading(self) -> bytes:
        return b"%.6f" % self.rng.uniform(-50, 50)


def _unknown(hand: Hand) -> Message:
    stranger = Puppet(hand.attacker.network)
    return stranger.node.hex(), "op", stranger.sign(stranger.data(payload=hand.reading()))


def made_up(attacker: Attacker, rng: Random) -> Message:
    """An access request of an identity that nobody has heard of."""
    stranger, voucher = Puppet(attacker.network), Voucher.new("mobile")
    request = stranger.enrol(voucher, attacker.head, privilege=rng.randint(1, 3))
    return bootstrap_id(voucher.id), "enrol", stranger.sign(request)


def _stolen_id(hand: Hand, *, key: bool) -> Message:
    """The signature is his own. With `key` the signer's key in the envelope is the victim's."""
    victim, thief = hand.devices["admitted"], Puppet(hand.attacker.network)
    counter = victim.counter + hand.rng.randint(1, 10**6)
    body = sign_operation(victim.data(counter=counter, payload=hand.reading()), thief.signer)
    if key:
        mine, theirs = thief.signer.public, victim.signer.public
        assert len(mine) == len(theirs), "both are P-256 keys"
        body = body.replace(mine, theirs, 1)
    return victim.node.hex(), "op", body


def _service(hand: Hand) -> Message:
    service = f"{hand.rng.choice(_SERVICES)}-{hand.rng.randrange(10**6)}"
    return hand.data("admitted", service=service)


def _board(hand: Hand) -> Message:
    return hand.data("admitted", board=hand.rng.randbytes(32))


def _revocation(hand: Hand) -> Message:
    return hand.operation(Revoke, target=hand.rng.randbytes(32), reason="malice")


def _greedy(hand: Hand) -> Message:
    friend = Puppet(hand.attacker.network)
    privilege = hand.rng.randint(4, 255)
    body = friend.sign(friend.enrol(hand.voucher, hand.attacker.head, privilege=privilege))
    return bootstrap_id(hand.voucher.id), "enrol", body


def _grant(hand: Hand) -> Message:
    privilege, target = hand.rng.randint(2, 255), hand.devices["admitted"].node
    return hand.operation(Grant, target=target, privilege=privilege, services=("telemetry",))


def _voucher(hand: Hand) -> Message:
    return hand.operation(
        AddVoucher,
        voucher=hand.rng.randbytes(32),
        kind="mobile",
        privilege=3,
        services=("telemetry",),
        not_after_us=2**50 + hand.rng.getrandbits(40),
    )


Forge = Callable[[Hand], Message]

FORGERIES: Mapping[str, Mapping[str, Forge]] = {
    "self-made": {
        "data of an unknown device": _unknown,
        "wrong voucher": lambda hand: made_up(hand.attacker, hand.rng),
    },
    "stolen-id": {
        "data with a stolen id": partial(_stolen_id, key=False),
        "data with a stolen id and its key": partial(_stolen_id, key=True),
    },
    "expired": {"data after expiry": lambda hand: hand.data("expired")},
    "revoked": {"data after revocation": lambda hand: hand.data("revoked")},
    "wrong-purpose": {
        "service without a right to it": _service,
        "reading of a board that is another's": _board,
        "revocation of another device": _revocation,
    },
}
"""What can be forged with which material."""

ESCALATIONS: Mapping[str, Forge] = {
    "privilege above the voucher's": _greedy,
    "privilege that a device grants itself": _grant,
    "voucher that a device issues": _voucher,
    "revocation of another device": _revocation,
}
