"""The message log: what was proposed and voted per sequence number, between two watermarks.

Votes are counted here and nowhere else. Adding one costs a few dictionary operations and yields
a *fact* when it changes something: prepared, committed, or an equivocation with both votes. What
follows from a fact is decided in `normal`. Votes on checkpoints are in `checkpoint`.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from chain.pbft.messages import Commit, Prepare, PreparedProof, PrePrepare, Proposal, Signed
from chain.pbft.state_machine import VerifiedRequest

__all__ = ["Accepted", "Batched", "Equivocation", "Fact", "Log", "Offer", "Slot", "Votes"]


class Fact(Enum):
    """What a vote brought about."""

    PREPARED = "prepared"
    COMMITTED = "committed"


class Equivocation(msgspec.Struct, frozen=True):
    """One sender, one place, two statements: both signed."""

    culprit: int
    what: str
    first: Signed
    second: Signed


class Batched:
    """The content behind a digest. After execution it is only there to serve others: from the
    durable fact that holds it, or, if none does, from the bytes here.

    `fact_view`: our "proposal" fact of this view has it attached.
    """

    __slots__ = ("fact_view", "proposal", "raw", "requests", "size")

    def __init__(
        self,
        raw: bytes,
        proposal: Proposal,
        requests: tuple[VerifiedRequest, ...],
        fact_view: int | None = None,
    ) -> None:
        self.raw = raw  # empty when only the fact has it
        self.size = len(raw)
        self.proposal: Proposal | None = proposal
        self.requests = requests
        self.fact_view = fact_view

    def release(self) -> None:
        self.proposal = None
        self.requests = ()
        if self.fact_view is not None:
            self.raw = b""


class Accepted(msgspec.Struct, frozen=True):
    """The PRE-PREPARE that this replica accepted (and voted for) in `view`; without batch."""

    view: int
    digest: bytes
    signed: Signed


class Offer(msgspec.Struct, frozen=True):
    """A PRE-PREPARE that waits for its predecessors, or for a request to become known."""

    message: PrePrepare
    signed: Signed
    proposal: Proposal
    requests: tuple[VerifiedRequest, ...]
    arrived_us: int


class Votes:
    """One kind of vote on one sequence number: each sender's newest, and counts of equals.

    A sender holds one vote here, so a peer can fill no more than its own place.
    """

    __slots__ = ("counts", "votes")

    def __init__(self) -> None:
        self.votes: dict[int, tuple[int, bytes, Signed]] = {}
        self.counts: dict[tuple[int, bytes], int] = {}

    def add(self, sender: int, view: int, digest: bytes, signed: Signed) -> int | Equivocation:
        """How many agree with this vote now; 0 if it is no news."""
        old = self.votes.get(sender)
        key = (view, digest)
        if old is not None:
            if old[0] > view:
                return 0
            if old[0] == view:
                if old[1] == digest:
                    return 0
                return Equivocation(sender, "", old[2], signed)
            old_key = (old[0], old[1])
            left = self.counts[old_key] - 1
            if left:
                self.counts[old_key] = left
            else:
                del self.counts[old_key]
        self.votes[sender] = (view, digest, signed)
        count = self.counts.get(key, 0) + 1
        self.counts[key] = count
        return count

    def matching(self, view: int, digest: bytes) -> list[Signed]:
        """In the order of their senders."""
        return [
            vote[2]
            for _, vote in sorted(self.votes.items())
            if vote[0] == view and vote[1] == digest
        ]


class Slot:
    """Everything about one sequence number."""

    __slots__ = (
        "accepted",
        "batches",
        "commits",
        "committed",
        "offer",
        "ordered",
        "prepared",
        "prepared_proof",
        "prepares",
        "seq",
        "voted",
    )

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.accepted: Accepted | None = None
        self.offer: Offer | None = None
        self.ordered: Accepted | None = None  # by a NEW-VIEW; waits for its batch
        self.batches: dict[bytes, Batched] = {}
        # Digests that we voted for, and the view of the fact that has the batch attached.
        self.voted: dict[bytes, int] = {}
        self.prepares = Votes()
        self.commits = Votes()
        self.prepared: Accepted | None = None  # of the highest view that prepared here
        self.prepared_proof: PreparedProof | None = None
        self.committed: tuple[int, bytes] | None = None  # view, digest

    def wants(self, digest: bytes) -> bool:
        """Whether a batch with this digest is needed and missing."""
        if digest in self.batches:
            return False
        if self.ordered is not None and self.ordered.digest == digest:
            return True
        return self.committed is not None and self.committed[1] == digest

    def prune(self) -> None:
        """Drops batches that nothing refers to any more (entering a view). What we voted for stays
        in the store: our PREPARE may be in a certificate that others bring into a later view."""
        kept = {entry.digest for entry in (self.prepared, self.ordered, self.accepted) if entry}
        if self.committed is not None:
            kept.add(self.committed[1])
        for digest, batch in self.batches.items():
            if digest not in kept and batch.fact_view is not None:
                self.voted[digest] = batch.fact_view
        self.batches = {key: value for key, value in self.batches.items() if key in kept}


class Log:
    """Slots between the low and the high watermark, and a little below for those behind."""

    def __init__(self, strong: int, window: int) -> None:
        self.strong = strong
        self.window = window
        self.low = 0  # h: the highest proven checkpoint
        self.kept_above = 0  # slots up to here are gone
        self.slots: dict[int, Slot] = {}

    def admits(self, seq: int) -> bool:
        """h < n <= h + L (OSDI'99, section 4.2), and what is still kept below h."""
        return self.kept_above < seq <= self.low + self.window

    def get(self, seq: int) -> Slot | None:
        return self.slots.get(seq)

    def slot(self, seq: int) -> Slot:
        """The slot of a sequence number that `admits`."""
        slot = self.slots.get(seq)
        if slot is None:
            slot = self.slots[seq] = Slot(seq)
        return slot

    def add_prepare(self, vote: Prepare, signed: Signed) -> Fact | Equivocation | None:
        slot = self.slot(vote.seq)
        count = slot.prepares.add(vote.sender, vote.view, vote.digest, signed)
        if isinstance(count, Equivocation):
            return msgspec.structs.replace(count, what="prepare")
        return self.prepared_now(slot) if count >= self.strong - 1 else None

    def prepared_now(self, slot: Slot) -> Fact | None:
        """prepared(m, v, n, i): its PRE-PREPARE accepted and q-1 PREPAREs of backups (4.2).

        Also to be asked after accepting a PRE-PREPARE, as the votes may have come first.
        """
        accepted = slot.accepted
        if accepted is None or (slot.prepared and slot.prepared.view >= accepted.view):
            return None
        key = (accepted.view, accepted.digest)
        if slot.prepares.counts.get(key, 0) < self.strong - 1:
            return None
        votes = slot.prepares.matching(*key)[: self.strong - 1]
        slot.prepared = accepted
        slot.prepared_proof = PreparedProof(accepted.signed, tuple(votes))
        return Fact.PREPARED

    def add_commit(self, vote: Commit, signed: Signed) -> Fact | Equivocation | None:
        """q COMMITs of one view are the proof of `committed(m, v, n)` (4.2): f+1 honest replicas
        prepared it, so every later view keeps it. It holds whatever our own view is."""
        slot = self.slot(vote.seq)
        count = slot.commits.add(vote.sender, vote.view, vote.digest, signed)
        if isinstance(count, Equivocation):
            return msgspec.structs.replace(count, what="commit")
        if count >= self.strong and slot.committed is None:
            slot.committed = (vote.view, vote.digest)
            return Fact.COMMITTED
        return None

    def raise_low(self, low: int, kept_above: int) -> None:
        """A higher checkpoint is proven; slots up to `kept_above` go."""
        self.low = low
        if kept_above > self.kept_above:
            self.kept_above = kept_above
            for seq in [seq for seq in self.slots if seq <= kept_above]:
                del self.slots[seq]

    def above(self, seq: int) -> list[Slot]:
        """In order."""
        return [self.slots[number] for number in sorted(self.slots) if number > seq]
