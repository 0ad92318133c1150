"""Votes are counted here and nowhere else: PREPAREs, COMMITs, CHECKPOINTs, VIEW-CHANGEs.

Each sender has one place per statement, so a peer can fill no more than its own. Two different
statements in one place are an equivocation, which carries both. `log` (prepared, committed),
`checkpoint` and `view_change` act on the counts.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from chain.pbft.inputs import Received
from chain.pbft.messages import Checkpoint, Signed, ViewChange

__all__ = ["VOTES_PER_PEER_MAX", "CheckpointVotes", "Equivocation", "ViewChanges", "Votes"]

VOTES_PER_PEER_MAX = 4  # checkpoints of one peer that are remembered: its newest

Statement = Literal["pre-prepare", "prepare", "commit", "checkpoint", "view-change"]


class Equivocation(msgspec.Struct, frozen=True):
    """One sender signed two different statements for one place."""

    culprit: int
    what: Statement
    first: Signed
    second: Signed


class Votes(msgspec.Struct, eq=False):
    """One kind of vote on one sequence number: each sender's newest, and how many are equal."""

    kind: Statement
    votes: dict[int, tuple[int, bytes, Signed]] = {}  # by sender: view, digest
    counts: dict[tuple[int, bytes], int] = {}  # by view and digest

    def add(self, sender: int, view: int, digest: bytes, signed: Signed) -> int | Equivocation:
        """How many votes equal this one now; 0 if it is nothing new."""
        old = self.votes.get(sender)
        if old is not None:
            if old[0] > view or (old[0] == view and old[1] == digest):
                return 0
            if old[0] == view:
                return Equivocation(sender, self.kind, old[2], signed)
            self.drop(sender)
        key = (view, digest)
        self.votes[sender] = (view, digest, signed)
        count = self.counts.get(key, 0) + 1
        self.counts[key] = count
        return count

    def drop(self, sender: int) -> None:
        view, digest, _ = self.votes.pop(sender)
        left = self.counts[view, digest] - 1
        if left:
            self.counts[view, digest] = left
        else:
            del self.counts[view, digest]

    def matching(self, view: int, digest: bytes) -> tuple[Signed, ...]:
        """The frames, in the order of their senders."""
        return tuple(
            vote[2]
            for _, vote in sorted(self.votes.items())
            if vote[0] == view and vote[1] == digest
        )


class CheckpointVotes:
    """CHECKPOINTs above the stable one: the newest few of each sender."""

    def __init__(self) -> None:
        self._at: dict[int, Votes] = {}

    def add(self, vote: Checkpoint, signed: Signed) -> int | Equivocation:
        """How many vouch for the same head now; 0 if it is nothing new."""
        votes = self._at.setdefault(vote.seq, Votes("checkpoint"))
        count = votes.add(vote.sender, 0, vote.head, signed)
        by_sender = [seq for seq, votes in self._at.items() if vote.sender in votes.votes]
        if len(by_sender) > VOTES_PER_PEER_MAX:
            oldest = self._at[min(by_sender)]
            oldest.drop(vote.sender)
            if not oldest.votes:
                del self._at[min(by_sender)]
        return count

    def matching(self, seq: int, head: bytes) -> tuple[Signed, ...]:
        votes = self._at.get(seq)
        return votes.matching(0, head) if votes else ()

    def of(self, sender: int) -> list[tuple[int, Signed]]:
        """The sequence numbers on which it voted, in order, and the votes."""
        at = sorted(self._at.items())
        return [(seq, votes.votes[sender][2]) for seq, votes in at if sender in votes.votes]

    def forget(self, seq: int) -> None:
        """Forgets the votes up to `seq`."""
        self._at = {at: votes for at, votes in self._at.items() if at > seq}


class ViewChanges:
    """Each sender's newest VIEW-CHANGE."""

    def __init__(self) -> None:
        self.newest: dict[int, Received[ViewChange]] = {}

    def add(self, received: Received[ViewChange]) -> None:
        self.newest[received.message.sender] = received

    def stale(self, received: Received[ViewChange]) -> bool | Equivocation:
        """Whether its sender has asked for this view, or a later one, before."""
        known = self.newest.get(received.message.sender)
        if known is None or known.message.view < received.message.view:
            return False
        same_view = known.message.view == received.message.view
        if same_view and known.signed.body != received.signed.body:
            sender = received.message.sender
            return Equivocation(sender, "view-change", known.signed, received.signed)
        return True

    def asking_for(self, view: int) -> list[Received[ViewChange]]:
        """The VIEW-CHANGEs for `view`, in the order of their senders."""
        items = sorted(self.newest.items())
        return [received for _, received in items if received.message.view == view]

    def views(self, at_least: int) -> list[int]:
        """The view of each VIEW-CHANGE that asks for `at_least` or a later one."""
        views = (received.message.view for received in self.newest.values())
        return [view for view in views if view >= at_least]

    def forget(self, view: int) -> None:
        """Forgets those up to `view`."""
        self.newest = {
            sender: received
            for sender, received in self.newest.items()
            if received.message.view > view
        }
