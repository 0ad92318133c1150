"""A replica whose store was damaged has forgotten votes: it must not vote where it may have voted.

It follows (status, fetching, executing) and sends no votes until its own stable checkpoint is at or
above every number that it can have voted on: a height that an honest peer has executed, plus the
log window. From then on it votes on higher numbers only, and its VIEW-CHANGEs prove that
checkpoint, so nothing that it forgot can count. Its height is not enough: blocks are executed long
before their checkpoint is proven.
"""

from __future__ import annotations

from chain.genesis import Consensus, Membership
from chain.pbft.effects import Broadcast, Effect, Send
from chain.pbft.messages import (
    Checkpoint,
    Commit,
    Endorsement,
    NewView,
    Prepare,
    PrePrepare,
    StatusMessage,
    ViewChange,
    decode_body,
)

__all__ = ["Abstention"]

_VOTES = (PrePrepare, Prepare, Commit, Checkpoint, ViewChange, NewView, Endorsement)


class Abstention:
    """`until` is the stable checkpoint at which it ends, None until enough peers were heard.

    This replica is one of the f faulty ones. So of the n-1 others at most f-1 lie or are silent,
    and at least q-f honest ones executed the last stable checkpoint that we can have known. If u
    others were not heard, at least f-u of those honest ones were: the (f-u)th highest claim is high
    enough. A liar may claim any height, but its claim is passed over once all honest ones were
    heard: then u and the liars together are at most f-1. So the end may come down while more are
    heard.
    """

    def __init__(self, consensus: Consensus, until: int | None) -> None:
        self.until = until
        self._margin = consensus.log_window
        self._executed: dict[int, int] = {}

    def heard(self, status: StatusMessage, membership: Membership) -> bool:
        """True if this status settled or lowered where the abstention ends: note it durably."""
        if membership.spki(status.sender) is None:
            return False
        self._executed[status.sender] = status.executed
        quorum, heard = membership.quorum, self._executed
        claims = sorted(heard[each] for each in membership.ids if each in heard)
        rank = quorum.faulty - (quorum.n - 1 - len(claims))
        if rank < 1:
            return False
        until = claims[-rank] + self._margin
        if self.until is not None and self.until <= until:
            return False
        self.until = until
        return True

    def over(self, stable: int) -> bool:
        return self.until is not None and stable >= self.until

    def rewrite(self, effects: list[Effect]) -> list[Effect]:
        """`effects` without votes."""
        return [
            effect
            for effect in effects
            if not isinstance(effect, Send | Broadcast)
            or not isinstance(decode_body(effect.signed.body), _VOTES)
        ]
