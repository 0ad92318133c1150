"""m-of-n administrators: each signs the same operation with its own counter.

Pending operations are bounded per administrator and expire by height.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from chain.keys import digest
from chain.ledger.envelope import encode_operation
from chain.ledger.operations import Operation

__all__ = ["PENDING_PER_ADMIN_MAX", "Approval", "Approvals"]

PENDING_PER_ADMIN_MAX = 16  # opened by one administrator within a window
_NOBODY = bytes(32)


class Approval(Enum):
    DECIDED = "decided"  # enough administrators agree
    PENDING = "pending"  # more are needed
    REFUSED = "refused"  # its signer has too many operations pending


class Approvals:
    """Counts distinct administrators behind the same content until `needed` agree."""

    def __init__(self, needed: int, window_blocks: int) -> None:
        self._needed = needed
        self._window = window_blocks
        # The oldest first: height, opener, who agrees.
        self._pending: dict[bytes, tuple[int, bytes, set[bytes]]] = {}
        self._open_by: dict[bytes, int] = {}

    def expire(self, height: int) -> None:
        """Drops operations that were opened more than a window of blocks before `height`."""
        while self._pending:
            content, (opened, _, _) = next(iter(self._pending.items()))
            if opened + self._window >= height:
                break
            self._close(content)

    def approve(
        self, operation: Operation, height: int, in_force: Callable[[bytes], bool]
    ) -> Approval:
        """Counts the signer's approval of `operation`; its counter does not matter. Approvals of
        administrators that are no longer `in_force` do not count, so those of a stolen key end
        with the key."""
        if self._needed <= 1:
            return Approval.DECIDED
        admin = operation.node
        content = digest(
            encode_operation(msgspec.structs.replace(operation, node=_NOBODY, counter=1))
        )
        if content not in self._pending:
            if self._open_by.get(admin, 0) >= PENDING_PER_ADMIN_MAX:
                return Approval.REFUSED
            self._pending[content] = (height, admin, set())
            self._open_by[admin] = self._open_by.get(admin, 0) + 1
        approvers = self._pending[content][2]
        approvers.add(admin)
        if sum(map(in_force, approvers)) < self._needed:
            return Approval.PENDING
        self._close(content)
        return Approval.DECIDED

    def _close(self, content: bytes) -> None:
        """The operation is decided or expired: it no longer counts against its opener's limit."""
        _, opener, _ = self._pending.pop(content)
        self._open_by[opener] -= 1
