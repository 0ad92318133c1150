"""Who may log in at the broker: a function of the ledger's records, the same at every gateway.

A device has one login, with the name of its newest key. Until that key has signed something, the
previous login stays too (the voucher's, or the previous key's), so that the device can ask again
for a lost answer. Revocation of any of its keys removes every login of the device. Expiry does too,
in the first block after it, as on the chain. A revoked administrator loses both logins: as a party
of the chain, and as administrator of the broker.

A voucher's login ends when the voucher is withdrawn or expires, and a factory identity's when it is
barred. The issuer adds these logins, because only the issuer knows the password. A factory identity
whose root was withdrawn keeps its login, because no record names it. It can ask for access, and is
refused.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import digest
from chain.ledger.admission import voucher_id
from chain.ledger.envelope import read_operation
from chain.ledger.identity import Identity
from chain.ledger.item import cose_of
from chain.ledger.operations import Enrol
from chain.ledger.statement import OK, Statement
from chain.proofs.certificate import verify_carrier
from gateway.bridge.edge import Admitted, admitted_codec
from gateway.bridge.follower import FinalBlock, Follower
from gateway.broker.carriers import certificate_of
from gateway.broker.credentials import seal_password
from gateway.broker.security import User, bootstrap_id, device_password, user_name
from gateway.mqtt.topics import Role

__all__ = ["CarrierCertificate", "LoginChange", "Logins", "carrier_of", "ended", "is_welcome"]

_STALE_MAX = 64  # outdated entries, beside as many as there are valid ones


class LoginChange(msgspec.Struct, frozen=True):
    """From now on `name` may log in as `user`, or no longer (None). `parting`: the device revoked
    itself and should get its receipt before its connection is closed."""

    name: str
    user: User | None
    height: int = 0
    parting: bool = False


class CarrierCertificate(msgspec.Struct, frozen=True):
    """The checked certificate of a device, encoded again (PEM). `digest` is the SHA-256 of what the
    device sent: the answer to it."""

    name: str
    pem: str
    digest: bytes


class _Device(msgspec.Struct):
    current: bytes  # the node id of its newest key
    former: str | None  # the login before that, until `current` has signed something


class _Ends:
    """When each name ends. A name that is set often takes no more memory."""

    def __init__(self) -> None:
        self._of: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []  # entries that `_of` contradicts do not count

    def set(self, name: bytes, not_after_us: int) -> None:
        self._of[name] = not_after_us
        heapq.heappush(self._heap, (not_after_us, name))
        if len(self._heap) > 2 * len(self._of) + _STALE_MAX:
            self._heap = [(end_us, each) for each, end_us in self._of.items()]
            heapq.heapify(self._heap)

    def remove(self, name: bytes) -> None:
        self._of.pop(name, None)

    def take(self, time_us: int) -> Iterator[bytes]:
        """The names that have ended at this time; each once."""
        while self._heap and self._heap[0][0] < time_us:
            end_us, name = heapq.heappop(self._heap)
            if self._of.get(name) == end_us:
                del self._of[name]
                yield name

    def __len__(self) -> int:
        return len(self._heap)


_State = tuple[dict[bytes, _Device], dict[bytes, bytes], _Ends, _Ends]


class Logins:
    """Give every final block to `changes`, in order. `state` may be kept, for a later start."""

    def __init__(self, secret: bytes, genesis: Genesis) -> None:
        self._secret = secret
        self._devices: dict[bytes, _Device] = {}  # by the node id of their first key
        self._device_of: dict[bytes, bytes] = {}  # node id of any key -> of the first key
        self._expiries = _Ends()  # of devices
        self._vouchers = _Ends()  # of vouchers that are not used yet
        for each in genesis.policy.vouchers:
            self._vouchers.set(each.id, each.not_after_us)

    @property
    def state(self) -> _State:
        return self._devices, self._device_of, self._expiries, self._vouchers

    def resume(self, state: _State) -> None:
        self._devices, self._device_of, self._expiries, self._vouchers = state

    def changes(self, block: FinalBlock) -> list[LoginChange]:
        """The changes of a block at the broker."""
        found = []
        for position, statement in enumerate(block.statements):
            for name, user in self._changes(block, position, statement):
                parting = user is None and statement.by is None and name == statement.node.hex()
                found.append(LoginChange(name, user, block.height, parting))
        for name in self._expired(block.time_us):
            found.append(LoginChange(name, None, block.height))
        return found

    def _changes(
        self, block: FinalBlock, position: int, statement: Statement
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
                voucher = _voucher_of(block.block.records[position].item, statement)
                self._vouchers.remove(voucher)
                device, former = node, bootstrap_id(voucher)
            else:
                assert device is not None, "the ledger knows who renewed"
                former = signer.hex()
            self._device_of[node] = device
            self._devices[device] = _Device(node, former)
            yield node.hex(), self._user(node, statement.kind)
        match statement.op:
            case "revoke" if node in self._device_of:
                yield from self._remove(self._device_of[node])
            case "revoke" if statement.key is not None:  # an administrator; boards have no login
                yield node.hex(), None
                yield user_name(Role.ADMIN, node.hex()), None
            case "withdraw-voucher" | "bar-factory":
                self._vouchers.remove(node)
                yield bootstrap_id(node), None
            case "add-voucher":
                assert statement.not_after_us is not None, "add_voucher"
                self._vouchers.set(node, statement.not_after_us)
            case _ if statement.not_after_us is not None:
                self._expire_at(self._device_of.get(node), statement.not_after_us)

    def _remove(self, device: bytes | None) -> Iterator[tuple[str, None]]:
        if device is None:
            return
        self._expiries.remove(device)
        gone = self._devices.pop(device, None)
        if gone is not None:
            yield gone.current.hex(), None
            if gone.former is not None:
                yield gone.former, None

    def _expire_at(self, device: bytes | None, not_after_us: int) -> None:
        if device is not None and device in self._devices:
            self._expiries.set(device, not_after_us)

    def _expired(self, time_us: int) -> Iterator[str]:
        for device in self._expiries.take(time_us):
            for name, _ in self._remove(device):
                yield name
        for voucher in self._vouchers.take(time_us):
            yield bootstrap_id(voucher)

    def welcome(self, statement: Statement, receipt: bytes) -> bytes:
        """The answer to a new identity, for when its login works."""
        assert statement.key is not None, "is_welcome"
        password = device_password(self._secret, statement.node.hex())
        sealed = seal_password(password, statement.key)
        return admitted_codec.encode(Admitted(receipt=receipt, sealed_password=sealed))

    def _user(self, node: bytes, kind: str | None) -> User:
        role = Role.RELAY if kind == "environment" else Role.DEVICE
        return User(role, node.hex(), device_password(self._secret, node.hex()))


def carrier_of(pem: bytes, device: str, follower: Follower) -> CarrierCertificate:
    """Checks a device's carrier certificate. Raises PeerFault unless the chain has certified it for
    this device, which is still admitted and has not renewed since."""
    ledger = follower.ledger
    statement = verify_carrier(pem, follower.proofs, ledger.time_us)
    if statement.node.hex() != device:
        raise PeerFault("wrong-node", "another's certificate")
    identity = ledger.registry.identity(statement.node)
    if identity is None or ended(identity, ledger.time_us):
        raise PeerFault("unknown-node", "it is not admitted any more")
    if statement.not_before_us != identity.not_before_us:
        raise PeerFault("superseded", "it was renewed since")
    return CarrierCertificate(device, certificate_of(device, pem), digest(pem))


def ended(identity: Identity, time_us: int) -> str | None:
    """Why an identity has no access at this consensus time; None if it has."""
    if identity.ended is not None:
        return identity.ended
    return "expired" if identity.not_after_us < time_us else None


def is_welcome(statement: Statement) -> bool:
    """Whether this record makes a key an identity: an admission, or a renewal with a new key."""
    renewed = statement.op == "renew" and statement.by is not None
    return statement.status == OK and (statement.op == "enrol" or renewed)


def _voucher_of(item: bytes, statement: Statement) -> bytes:
    """The voucher of an admission."""
    operation = read_operation(cose_of(item), statement.network).operation
    assert isinstance(operation, Enrol), "a record of an admission"
    return voucher_id(operation.voucher)
