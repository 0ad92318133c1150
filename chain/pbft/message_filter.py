"""Drops messages that cannot change anything, before their signatures are checked.

These are votes beyond a quorum, batches that nobody asked for, and proposals of other views.
Checking them would cost as much as the first q votes, or a signature check for each item of a
batch. Only this module decides it. The host asks before it verifies.
"""

from __future__ import annotations

from chain.pbft.messages import (
    Batch,
    Commit,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    decode_proposal,
)
from chain.pbft.state import ReplicaState

__all__ = ["MessageFilter"]

_Vote = Prepare | Commit


class MessageFilter:
    """For messages that are verified together, before the core has seen any of them."""

    def __init__(self, s: ReplicaState) -> None:
        self._s = s
        # Verified votes: the senders of each (kind, epoch, view, number, digest); who has voted.
        self._equal: dict[tuple[type[_Vote], int, int, int, bytes], set[int]] = {}
        self._voted: set[tuple[type[_Vote], int, int, int]] = set()

    def superfluous(self, message: ReplicaMessage) -> bool:
        """Whether the host may drop it unverified. Raises PeerFault for a malformed batch."""
        if type(message) is Commit or type(message) is Prepare:
            return self._lacking(message) <= len(self._equal.get(_key(message), ()))
        if type(message) is PrePrepare:
            return not self._expects(message)
        if type(message) is Batch:
            seq, digest = decode_proposal(message.proposal).seq, message.proposal
            return not self._wants(seq, Proposal.digest_of(digest))
        return False

    def verified(self, message: ReplicaMessage) -> None:
        """To be called for each message that was verified. Only a sender's first vote on a number
        may count."""
        if type(message) is not Commit and type(message) is not Prepare:
            return
        voter = (type(message), message.epoch, message.seq, message.sender)
        if voter not in self._voted:
            self._voted.add(voter)
            if self._counts(message):
                self._equal.setdefault(_key(message), set()).add(message.sender)

    def _lacking(self, vote: _Vote) -> int:
        """How many votes equal to this one can still change something: 0 if its number is prepared
        or committed with that digest in that view."""
        log, key = self._s.log, (vote.view, vote.digest)
        slot = log.get(vote.seq)
        if type(vote) is Commit:
            if slot is None:
                return log.strong
            return 0 if slot.committed == key else log.strong - slot.commits.counts.get(key, 0)
        if slot is None:
            return log.strong - 1
        prepared = slot.prepared
        if prepared is not None and (prepared.view, prepared.digest) == key:
            return 0
        return log.strong - 1 - slot.prepares.counts.get(key, 0)

    def _counts(self, vote: _Vote) -> bool:
        """Whether this vote counts against `_lacking`. A sender's repeated or contradicting vote
        does not, and a primary's PREPARE does not: no other vote may be dropped because of them."""
        slot = self._s.log.get(vote.seq)
        if type(vote) is Prepare and vote.sender == self._s.membership.primary(vote.view):
            return False
        if slot is None:
            return True
        votes = slot.prepares.votes if type(vote) is Prepare else slot.commits.votes
        known = votes.get(vote.sender)
        return known is None or known[0] < vote.view

    def _wants(self, seq: int, digest: bytes) -> bool:
        slot = self._s.log.get(seq)
        return slot is not None and slot.wants(digest)

    def _expects(self, message: PrePrepare) -> bool:
        """Whether it is of our view, or of a view that we left and still follow, or its batch is
        missing. (One above our view that comes together with its NEW-VIEW is sent again later.)"""
        s = self._s
        if message.epoch != s.epoch:
            return message.epoch > s.epoch
        if self._wants(message.seq, message.digest):
            return True
        view = s.view
        current = message.view == view.number or (message.view < view.number and not view.active)
        return current and s.log.admits(message.seq)


def _key(vote: _Vote) -> tuple[type[_Vote], int, int, int, bytes]:
    return type(vote), vote.epoch, vote.view, vote.seq, vote.digest
