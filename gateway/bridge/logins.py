"""Who may log in at the broker: a function of the ledger's records, the same at every gateway.

An admitted device gets its own login; the one that its voucher stood for, or its renewed key's
former one, is removed when the new identity has spoken (so that an answer that was lost can be
asked for again), and at once when it is revoked.
"""

from __future__ import annotations

import msgspec

from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.item import cose_of
from chain.ledger.operations import Enrol, read_operation, voucher_key
from chain.ledger.statement import OK, Statement
from chain.proofs.certificate import verify_carrier
from gateway.bridge.edge import Admitted, admitted_codec
from gateway.bridge.follower import Follower, Settled
from gateway.broker.credentials import seal_password
from gateway.broker.security import User, bootstrap_id, device_password
from gateway.mqtt.topics import Role

__all__ = ["LoginChange", "Logins", "is_welcome"]


class LoginChange(msgspec.Struct, frozen=True):
    """`name` may log in as `user` from now on, or not any more (None); with `carrier`, its
    certificate in PEM, the broker knows it by that too. When the broker has done it, `answer`
    goes to `rsp/<device>/admitted` (or, to a carrier, `.../carrier`), if there is one. `parting`:
    it left by its own wish, and hears that it may before the door closes."""

    name: str
    user: User | None
    height: int = 0
    device: str = ""
    answer: bytes = b""
    carrier: str = ""
    parting: bool = False


class Logins:
    """Feed it every settled block in order."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._former: dict[bytes, str] = {}  # a new identity's earlier login, until it has spoken

    def changes(self, settled: Settled) -> list[LoginChange]:
        """What a block changes at the broker."""
        found = []
        for position, statement in enumerate(settled.statements):
            found += self._changes(settled, position, statement)
        return found

    def _changes(self, settled: Settled, position: int, statement: Statement) -> list[LoginChange]:
        height, node = settled.height, statement.node
        if statement.status == OK and statement.op == "revoke":
            gone = [node.hex(), self._former.pop(node, None)]
            parting = statement.by is None
            return [LoginChange(name, None, height, parting=parting) for name in gone if name]
        if is_welcome(statement):
            former = _former_login(settled.block.records[position].item, statement)
            if former is not None:
                self._former[node] = former
            return [LoginChange(node.hex(), self._user(node, statement.kind), height)]
        signer = statement.by or node
        former = self._former.pop(signer, None) if statement.counter is not None else None
        return [] if former is None else [LoginChange(former, None, height)]

    def welcome(self, statement: Statement, device: str, receipt: bytes) -> LoginChange | None:
        """The answer to a new identity, sent when its login works; None for other records."""
        if not is_welcome(statement):
            return None
        assert statement.key is not None
        user = self._user(statement.node, statement.kind)
        sealed = seal_password(user.password or "", statement.key)
        answer = admitted_codec.encode(Admitted(receipt=receipt, sealed_password=sealed))
        return LoginChange(user.name, user, device=device, answer=answer)

    def carry(self, pem: bytes, device: str, chain: Follower) -> LoginChange:
        """For the broker to know a device by its carrier certificate. Raises PeerFault unless the
        chain has certified it for this device, who is still admitted."""
        ledger = chain.ledger
        statement = verify_carrier(pem, chain.proofs, ledger.time_us)
        if statement.node.hex() != device:
            raise PeerFault("wrong-node", "another's certificate")
        identity = ledger.registry.identity(statement.node)
        if identity is None or identity.ended is not None:
            raise PeerFault("unknown-node", "it is not admitted any more")
        user = self._user(statement.node, identity.kind)
        return LoginChange(device, user, device=device, answer=digest(pem), carrier=pem.decode())

    def _user(self, node: bytes, kind: str | None) -> User:
        role = Role.RELAY if kind == "environment" else Role.DEVICE
        return User(role, node.hex(), device_password(self._secret, node.hex()))


def is_welcome(statement: Statement) -> bool:
    """A record by which a key becomes an identity: admission, or renewal with a new key."""
    renewed = statement.op == "renew" and statement.by is not None
    return statement.status == OK and (statement.op == "enrol" or renewed)


def _former_login(item: bytes, statement: Statement) -> str | None:
    if statement.op == "renew":
        return None if statement.by is None else statement.by.hex()
    try:
        operation = read_operation(cose_of(item), statement.network).operation
        assert isinstance(operation, Enrol), "a record of an admission"
        return bootstrap_id(voucher_key(operation.voucher))
    except PeerFault as fault:
        raise AssertionError("the ledger executed it") from fault
