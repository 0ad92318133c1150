"""Who may log in at the broker: a function of the ledger's records, the same at every gateway.

A device has one login, named by the newest key of its lineage. Until that key has signed something,
the login before it stays too (the voucher's, or that of the key before), so that an answer that was
lost can be asked for again. Revocation removes every login of the device, whichever of its keys it
names. Expiry removes them too, in the first block after it, as on the chain.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.identity import Identity
from chain.ledger.item import cose_of
from chain.ledger.operations import Enrol, read_operation, voucher_key
from chain.ledger.statement import OK, Statement
from chain.proofs.certificate import verify_carrier
from gateway.bridge.edge import Admitted, admitted_codec
from gateway.bridge.follower import Follower, Settled
from gateway.broker.carriers import certificate_of
from gateway.broker.credentials import seal_password
from gateway.broker.security import User, bootstrap_id, device_password
from gateway.mqtt.topics import Role

__all__ = ["Carrier", "LoginChange", "Logins", "ended", "is_welcome"]


class LoginChange(msgspec.Struct, frozen=True):
    """From now on `name` may log in as `user`, or no longer (None). `parting`: the device revoked
    itself and should get its receipt before its connection is closed."""

    name: str
    user: User | None
    height: int = 0
    parting: bool = False


class Carrier(msgspec.Struct, frozen=True):
    """The checked certificate of a device, encoded anew (PEM). `digest` is the SHA-256 of what the
    device sent: the answer to it."""

    name: str
    pem: str
    digest: bytes


class _Device(msgspec.Struct):
    current: bytes  # the node id of its newest key
    former: str | None  # the login before that, until `current` has signed something
    not_after_us: int


class Logins:
    """Give every settled block to `changes`, in order. `state` may be kept, for a later start."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._devices: dict[bytes, _Device] = {}  # by the node id of their first key
        self._device_of: dict[bytes, bytes] = {}  # node id of any key: of the first key
        self._expiries: list[tuple[int, bytes]] = []  # a heap of (not after, device)

    @property
    def state(self) -> tuple[dict[bytes, _Device], dict[bytes, bytes], list[tuple[int, bytes]]]:
        return self._devices, self._device_of, self._expiries

    def resume(
        self, state: tuple[dict[bytes, _Device], dict[bytes, bytes], list[tuple[int, bytes]]]
    ) -> None:
        self._devices, self._device_of, self._expiries = state

    def changes(self, settled: Settled) -> list[LoginChange]:
        """What a block changes at the broker."""
        found = []
        for position, statement in enumerate(settled.statements):
            for name, user in self._changes(settled, position, statement):
                parting = user is None and statement.by is None and name == statement.node.hex()
                found.append(LoginChange(name, user, settled.height, parting))
        for name in self._expired(settled.time_us):
            found.append(LoginChange(name, None, settled.height))
        return found

    def _changes(
        self, settled: Settled, position: int, statement: Statement
    ) -> Iterator[tuple[str, User | None]]:
        node, signer = statement.node, statement.by or statement.node
        device = self._device_of.get(signer)
        known = None if device is None else self._devices.get(device)
        has_signed = statement.counter is not None and known is not None and known.current == signer
        if known is not None and known.former is not None and has_signed:
            yield known.former, None
            known.former = None
        if statement.status != OK:
            return
        if is_welcome(statement):
            if statement.op == "enrol":
                device, former = (
                    node,
                    _voucher_login(settled.block.records[position].item, statement),
                )
            else:
                assert device is not None, "the ledger knows who renewed"
                former = signer.hex()
            self._device_of[node] = device
            self._devices[device] = _Device(node, former, 0)
            yield node.hex(), self._user(node, statement.kind)
        if statement.op == "revoke":
            yield from self._remove(self._device_of.get(node))
        elif statement.not_after_us is not None:
            self._expire_at(self._device_of.get(node), statement.not_after_us)

    def _remove(self, device: bytes | None) -> Iterator[tuple[str, None]]:
        gone = None if device is None else self._devices.pop(device, None)
        if gone is not None:
            yield gone.current.hex(), None
            if gone.former is not None:
                yield gone.former, None

    def _expire_at(self, device: bytes | None, not_after_us: int) -> None:
        if device is not None and device in self._devices:
            self._devices[device].not_after_us = not_after_us
            heapq.heappush(self._expiries, (not_after_us, device))

    def _expired(self, time_us: int) -> Iterator[str]:
        while self._expiries and self._expiries[0][0] < time_us:
            not_after_us, device = heapq.heappop(self._expiries)
            known = self._devices.get(device)
            if known is not None and known.not_after_us == not_after_us:  # not renewed since
                for name, _ in self._remove(device):
                    yield name

    def welcome(self, statement: Statement, receipt: bytes) -> bytes:
        """The answer to a new identity, for when its login works."""
        assert statement.key is not None, "is_welcome"
        password = device_password(self._secret, statement.node.hex())
        sealed = seal_password(password, statement.key)
        return admitted_codec.encode(Admitted(receipt=receipt, sealed_password=sealed))

    def _user(self, node: bytes, kind: str | None) -> User:
        role = Role.RELAY if kind == "environment" else Role.DEVICE
        return User(role, node.hex(), device_password(self._secret, node.hex()))


def carrier_of(pem: bytes, device: str, chain: Follower) -> Carrier:
    """Checks a device's carrier certificate. Raises PeerFault unless the chain has certified it for
    this device, which is still admitted and has not renewed since."""
    ledger = chain.ledger
    statement = verify_carrier(pem, chain.proofs, ledger.time_us)
    if statement.node.hex() != device:
        raise PeerFault("wrong-node", "another's certificate")
    identity = ledger.registry.identity(statement.node)
    if identity is None or ended(identity, ledger.time_us):
        raise PeerFault("unknown-node", "it is not admitted any more")
    if statement.not_before_us != identity.not_before_us:
        raise PeerFault("superseded", "it was renewed since")
    return Carrier(device, certificate_of(device, pem), digest(pem))


def ended(identity: Identity, time_us: int) -> str | None:
    """Why an identity has no access at this consensus time; None if it has."""
    if identity.ended is not None:
        return identity.ended
    return "expired" if identity.not_after_us < time_us else None


def is_welcome(statement: Statement) -> bool:
    """A record by which a key becomes an identity: admission, or renewal with a new key."""
    renewed = statement.op == "renew" and statement.by is not None
    return statement.status == OK and (statement.op == "enrol" or renewed)


def _voucher_login(item: bytes, statement: Statement) -> str:
    """The login of the voucher of an admission."""
    operation = read_operation(cose_of(item), statement.network).operation
    assert isinstance(operation, Enrol), "a record of an admission"
    return bootstrap_id(voucher_key(operation.voucher))
