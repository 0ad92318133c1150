"""Simulated devices and their requests, honest and dishonest.

A device works through its plan, one request at a time. It starts the next request when the last
one is final. In between, the device or somebody in its name sends requests that must never have an
effect: a repetition, a forgery, an old counter, a key that never enrolled.
"""

from __future__ import annotations

from collections import deque
from random import Random

import msgspec

from chain.genesis import VoucherGrant
from chain.keys import Signer, digest, node_id
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import Data, Enrol, Operation, Renew, Revoke, Token
from chain.ledger.possession import renewal_statement, voucher_statement
from testbed.simulate.scheme import Signatures

__all__ = ["SERVICE", "SimulatedDevice"]

SERVICE = "telemetry"
_VALIDITY_S = 86_400  # longer than any clock is ahead, even if a quorum's clocks are


class SimulatedDevice:
    """One mobile device. `wanted` is the request for which it waits, None if it has nothing to do.
    `wanted_id` is its id (set by the owner), `doing` its name."""

    def __init__(self, number: int, network: bytes, random: Random, signatures: Signatures) -> None:
        self.number = number
        self._network = network
        self._random = random
        self._signatures = signatures
        self._signer = signatures.signer(f"device {number}")
        self._token = signatures.signer(f"token {number}")
        self.node = node_id(self._signer.public)
        self._counter = 0
        self._counter_done = 0
        self._keys = 0
        self._plan: deque[str] = deque(["enrol"])
        self._past: list[bytes] = []
        self.wanted: bytes | None = None
        self.wanted_id = b""
        self.doing = ""
        self.revoked = False

    @staticmethod
    def grant_of(number: int, signatures: Signatures) -> VoucherGrant:
        """The grant in the genesis for the token of device `number`."""
        token = digest(signatures.signer(f"token {number}").public)
        return VoucherGrant(
            id=token, kind="mobile", privilege_max=3, services=(SERVICE,), not_after_us=2**62
        )

    @property
    def idle(self) -> bool:
        return self.wanted is None and not self._plan

    def plan(self, operation: str) -> None:
        self._plan.append(operation)

    def next(self, head: bytes) -> bytes | None:
        """Starts the next request of the plan; `head` is a recent final head's hash."""
        if self.wanted is not None or not self._plan:
            return None
        self.doing = self._plan.popleft()
        self.wanted = sign_operation(self._operation(self.doing, head), self._signer)
        return self.wanted

    def done(self) -> None:
        """Note that the wanted request is final and was accepted."""
        if self.doing == "revoke":
            self.revoked = True
            self._plan.clear()
        elif self.doing == "renew":
            self._signer = self._next_signer()
            self._keys += 1
            self.node = node_id(self._signer.public)
        assert self.wanted is not None
        self._counter_done = self._counter
        self._past.append(self.wanted)
        self.wanted = None

    def mischief(self, kind: str, payload: int, head: bytes) -> bytes | None:
        """A request that must have no effect; None if there is nothing to abuse yet."""
        match kind:
            case "again":
                if not self._past:
                    return None
                cose = self._random.choice(self._past)
                signature = self._signatures.other_form(cose[-64:])
                return self._random.choice((cose, cose[:-64] + signature))
            case "forged":
                cose = sign_operation(self._data(self._counter + 1, payload), self._signer)
                return cose[:-1] + bytes((cose[-1] ^ 1,))
            case "old-counter":
                if not self._counter_done:
                    return None
                counter = self._random.randint(1, self._counter_done)
                return sign_operation(self._data(counter, payload), self._signer)
            case "stranger":
                stranger = self._signatures.signer(f"stranger {payload}")
                if payload % 2:
                    data = Data(
                        network=self._network,
                        node=node_id(stranger.public),
                        counter=1,
                        service=SERVICE,
                        payload=b"s",
                    )
                    return sign_operation(data, stranger)
                return sign_operation(self._enrolment(stranger, stranger, head), stranger)
            case _:
                raise AssertionError(f"unknown mischief {kind}")

    def after_revocation(self, payload: int) -> bytes:
        """A request that is well signed and fresh, from an identity that is revoked."""
        self._counter += 1
        return sign_operation(self._data(self._counter, payload), self._signer)

    def outrun(self, payload: int) -> bytes | None:
        """The requests of a thief of the key who hears of the revocation: he renews to a key of his
        own (`payload` 0), then sends data with that key. None before the device is enrolled."""
        if not self._past:
            return None
        if not payload:
            self._counter += 1
            return sign_operation(self._renewal(), self._signer)
        fresh = self._next_signer()
        data = self._data(payload, payload)
        return sign_operation(msgspec.structs.replace(data, node=node_id(fresh.public)), fresh)

    # --- operations ------------------------------------------------------------------------------

    def _operation(self, name: str, head: bytes) -> Operation:
        if name == "enrol":
            return self._enrolment(self._signer, self._token, head)
        self._counter += 1
        match name:
            case "data":
                return self._data(self._counter, self._counter)
            case "renew":
                return self._renewal()
            case "revoke":
                return Revoke(
                    network=self._network,
                    node=self.node,
                    counter=self._counter,
                    target=self.node,
                    reason="retired",
                )
            case _:
                raise AssertionError(f"unknown operation {name}")

    def _renewal(self) -> Renew:
        fresh = self._next_signer()
        statement = renewal_statement(self._network, self.node, fresh.public)
        return Renew(
            network=self._network,
            node=self.node,
            counter=self._counter,
            key=fresh.public,
            validity_s=_VALIDITY_S,
            possession=fresh.sign(statement),
        )

    def _next_signer(self) -> Signer:
        return self._signatures.signer(f"device {self.number} key {self._keys + 1}")

    def _data(self, counter: int, payload: int) -> Data:
        return Data(
            network=self._network,
            node=self.node,
            counter=counter,
            service=SERVICE,
            payload=payload.to_bytes(8, "big"),
        )

    def _enrolment(self, signer: Signer, token: Signer, head: bytes) -> Enrol:
        statement = voucher_statement(self._network, signer.public, head)
        return Enrol(
            network=self._network,
            key=signer.public,
            kind="mobile",
            service=SERVICE,
            privilege=1,
            validity_s=_VALIDITY_S,
            head=head,
            nonce=self._random.randbytes(16),
            voucher=Token(key=token.public, signature=token.sign(statement)),
        )
