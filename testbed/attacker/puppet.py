"""A device in the attacker's hand: it signs anything that he wants to try."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chain.keys import Es256Signer, node_id
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import Data, Enrol, Factory, Operation, Renew, Token
from chain.ledger.possession import renewal_statement, voucher_statement
from testbed.attacker.manufacturer import Made
from testbed.provision.material import Voucher

__all__ = ["Puppet"]

T = TypeVar("T")


class Puppet:
    """A device in the attacker's hand: a key, a counter, and the operations that it can sign."""

    def __init__(self, network: bytes) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.signer = Es256Signer(self.key)
        self.node = node_id(self.signer.public)
        self.network = network
        self.counter = 0

    def enrol(self, voucher: Voucher, head: bytes, **changes: Any) -> Enrol:
        private = serialization.load_pem_private_key(voucher.pem, password=None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        statement = voucher_statement(self.network, self.signer.public, head)
        token = Token(key=voucher.spki, signature=Es256Signer(private).sign(statement))
        return self._enrol(head, token, changes)

    def _enrol(self, head: bytes, voucher: Token | Factory, changes: dict[str, Any]) -> Enrol:
        fields: dict[str, Any] = {
            "network": self.network,
            "key": self.signer.public,
            "kind": "mobile",
            "service": "telemetry",
            "privilege": 1,
            "validity_s": 3600,
            "head": head,
            "nonce": secrets.token_bytes(16),
            "voucher": voucher,
        }
        return Enrol(**(fields | changes))

    def enrol_by(
        self, made: Made, head: bytes, chain: tuple[bytes, ...] = (), **changes: Any
    ) -> Enrol:
        """Enrol by factory certificate. The key of `made` signs; `chain` is shown (default: its
        own)."""
        statement = voucher_statement(self.network, self.signer.public, head)
        signature = Es256Signer(made.key).sign(statement)
        voucher = Factory(chain=chain or (made.der,), signature=signature)
        return self._enrol(head, voucher, changes)

    def operation(self, make: Callable[..., T], **fields: Any) -> T:
        """Any operation with the head that an honest device would write, unless `fields` say
        otherwise."""
        self.counter += 1
        head = {"network": self.network, "node": self.node, "counter": self.counter}
        return make(**(head | fields))

    def data(self, **changes: Any) -> Data:
        return self.operation(Data, **({"service": "telemetry", "payload": b"21.5"} | changes))

    def renew(self, following: Puppet) -> Renew:
        """Renew: the key of `following` becomes the next key of this device."""
        statement = renewal_statement(self.network, self.node, following.signer.public)
        return self.operation(
            Renew,
            key=following.signer.public,
            validity_s=3600,
            possession=following.signer.sign(statement),
        )

    def sign(self, operation: Operation) -> bytes:
        return sign_operation(operation, self.signer)
