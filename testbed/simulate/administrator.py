"""The simulated administrator: adds and removes replicas, and revokes devices, one at a time.

It gives the next order when the last one is in force in the copy of the ledger that its gateway
has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from chain.genesis import Membership
from chain.keys import Signer, node_id
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import AddReplica, RemoveReplica, Revoke
from chain.quorum import REPLICAS_MIN

__all__ = ["Administrator"]


class Administrator:
    """The run uses it like a `devices.SimulatedDevice`. Orders name `key_of(replica)` and
    `node_of(device)`; `membership` is the one in force at its gateway."""

    number = 0

    def __init__(
        self,
        network: bytes,
        signer: Signer,
        key_of: Callable[[int], bytes],
        node_of: Callable[[int], bytes],
        membership: Callable[[], Membership],
    ) -> None:
        self._network = network
        self._signer = signer
        self._key_of = key_of
        self._node_of = node_of
        self._membership = membership
        self._orders: deque[tuple[str, int]] = deque()
        self._ordered = 0  # number of changes, so the epoch when all are in force
        self._counter = 0
        self.wanted: bytes | None = None
        self.wanted_id = b""
        self.doing = ""

    @property
    def idle(self) -> bool:
        return self.wanted is None and not self._orders and self._in_force

    @property
    def _in_force(self) -> bool:
        return self._membership().epoch == self._ordered

    def order(self, what: str, whom: int) -> None:
        """`whom` is a replica, or the device that is to be revoked."""
        self._orders.append((what, whom))

    def next(self, head: bytes) -> bytes | None:
        """The next order, signed; None while the last one is not in force, or if there is none."""
        if self.wanted is not None or not self._in_force:
            return None
        while self._orders:
            what, whom = self._orders.popleft()
            if self._is_possible(what, whom):
                self._counter += 1
                self._ordered += what != "revoke"
                self.doing = f"{what} {whom}"
                self.wanted = sign_operation(self._operation(what, whom), self._signer)
                return self.wanted
        return None

    def done(self) -> None:
        """Note that the wanted order is final and was accepted."""
        self.wanted = None

    def _is_possible(self, what: str, replica: int) -> bool:
        """Whether an order makes sense. A shrunk scenario may remove a replica that nobody added,
        or one of too few."""
        ids = self._membership().ids
        return what != "remove" or (replica in ids and len(ids) > REPLICAS_MIN)

    def _operation(self, what: str, replica: int) -> AddReplica | RemoveReplica | Revoke:
        node = node_id(self._signer.public)
        if what == "revoke":
            return Revoke(
                network=self._network,
                node=node,
                counter=self._counter,
                target=self._node_of(replica),
                reason="stolen",
            )
        if what == "add":
            return AddReplica(
                network=self._network,
                node=node,
                counter=self._counter,
                replica=replica,
                key=self._key_of(replica),
            )
        return RemoveReplica(
            network=self._network, node=node, counter=self._counter, replica=replica
        )
