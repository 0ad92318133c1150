"""Which replicas decide which blocks: one membership per epoch, changed by ordered operations.

A change decided in block h takes effect after the next checkpoint, the first multiple of K at or
above h. The old membership still certifies that checkpoint, and so vouches for the new membership.
One change at a time. Reconfiguration is Castro's thesis, section 6.3, done as an operation.
"""

from __future__ import annotations

import bisect

from chain.errors import Misuse
from chain.genesis import Consensus, Member, Membership
from chain.ledger.reasons import Reason
from chain.quorum import REPLICAS_MIN

__all__ = ["Epochs", "changed"]


def changed(membership: Membership, replica: int, key: bytes | None) -> Membership:
    """The next epoch: with `replica` added under `key`, or removed if `key` is None."""
    members = [member for member in membership.members if member.id != replica]
    if key is not None:
        bisect.insort(members, Member(id=replica, spki=key))
    return Membership(epoch=membership.epoch + 1, members=tuple(members))


class Epochs:
    """`membership` decides the next block. If a change is scheduled, `next` decides the blocks
    above `boundary`."""

    def __init__(self, membership: Membership, consensus: Consensus) -> None:
        self.membership = membership
        self.next: Membership | None = None
        self.boundary = 0
        self._interval = consensus.checkpoint_interval
        self._replicas_max = consensus.replicas_max
        self._ids_used = set(membership.ids)
        self.removed: frozenset[int] = frozenset()  # former members

    def refusal(self, replica: int, key: bytes | None) -> Reason | None:
        """Why this change cannot be made now, as a short stable word."""
        members = self.membership.members
        if self.next is not None:
            return "change-pending"
        if key is None:
            if self.membership.spki(replica) is None:
                return "unknown-replica"
            return "too-few-replicas" if len(members) <= REPLICAS_MIN else None
        if replica in self._ids_used or any(member.spki == key for member in members):
            return "replica-used"
        return "too-many-replicas" if len(members) >= self._replicas_max else None

    def change(self, replica: int, key: bytes | None, height: int) -> Membership:
        """Schedules the change that block `height` decides; returns the next epoch's members."""
        if self.refusal(replica, key) is not None:
            raise Misuse("an impossible membership change was not refused")
        self._ids_used.add(replica)
        self.next = changed(self.membership, replica, key)
        self.boundary = -(-height // self._interval) * self._interval
        return self.next

    def executed(self, height: int) -> None:
        """Call after each block: a change takes effect after its boundary."""
        if self.next is not None and height >= self.boundary:
            self.removed |= set(self.membership.ids) - set(self.next.ids)
            self.membership, self.next = self.next, None
