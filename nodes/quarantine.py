"""A replica whose store was damaged has forgotten votes, so it must not vote where it may have.

It follows (status, fetching, executing) and says nothing that counts until its chain is past
everything that it can have voted on: the highest height that a peer has executed, plus the log
window, plus one checkpoint interval, so that its own stable checkpoint is past it too.
"""

from __future__ import annotations

import msgspec

from chain.genesis import Consensus, Membership
from chain.messages import (
    Checkpoint,
    Commit,
    Endorsement,
    NewView,
    Prepare,
    PrePrepare,
    ReplicaMessage,
    StatusMessage,
    ViewChange,
)
from chain.pbft.effects import Broadcast, Effect, Send

__all__ = ["Quarantine"]

_VOTES = (PrePrepare, Prepare, Commit, Checkpoint, ViewChange, NewView, Endorsement)
_bodies = msgspec.msgpack.Decoder(ReplicaMessage)


class Quarantine:
    """`until` is the height at which it ends, None until enough peers were heard.

    This replica is one of the f faulty ones, so of the n-1 others at most f-1 lie: among n-f that
    were heard is one that executed the last stable checkpoint that we can have known.
    """

    def __init__(self, consensus: Consensus, until: int | None) -> None:
        self.until = until
        self._margin = consensus.log_window + consensus.checkpoint_interval
        self._executed: dict[int, int] = {}

    def heard(self, status: StatusMessage, membership: Membership) -> bool:
        """True if this status settled where the quarantine ends: note it durably."""
        if self.until is not None or membership.spki(status.sender) is None:
            return False
        self._executed[status.sender] = status.executed
        if len(self._executed) < membership.quorum.n - membership.quorum.faulty:
            return False
        self.until = max(self._executed.values()) + self._margin
        return True

    def over(self, height: int) -> bool:
        return self.until is not None and height >= self.until

    def rewrite(self, effects: list[Effect]) -> list[Effect]:
        """The same without votes."""
        return [
            effect
            for effect in effects
            if not isinstance(effect, Send | Broadcast)
            or not isinstance(_bodies.decode(effect.signed.body), _VOTES)
        ]
