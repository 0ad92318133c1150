"""The message log: what was proposed and voted per sequence number, between two watermarks.

Adding a vote costs a few dictionary operations (`votes` counts). It yields a *fact* when it
changes something: prepared, committed, or an equivocation. `normal` acts on the fact.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from chain.pbft.messages import Commit, Prepare, PreparedProof, PrePrepare, Proposal, Signed
from chain.pbft.state_machine import VerifiedRequest
from chain.pbft.votes import Equivocation, Votes

__all__ = ["Accepted", "BatchContent", "Fact", "Log", "Offer", "Slot"]


class Fact(Enum):
    """A change of state by a vote."""

    PREPARED = "prepared"
    COMMITTED = "committed"


class BatchContent(msgspec.Struct, eq=False):
    """The batch behind a digest. `raw` is its encoding, empty when only the store has it.

    After execution it only serves other replicas, and `proposal` and `requests` are gone.
    """

    raw: bytes
    proposal: Proposal | None
    requests: tuple[VerifiedRequest, ...]
    size: int = 0

    def __post_init__(self) -> None:
        self.size = len(self.raw)


class Accepted(msgspec.Struct, frozen=True):
    """A PRE-PREPARE, without its batch, that this replica voted for or must vote for."""

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

    @property
    def content(self) -> BatchContent:
        return BatchContent(self.signed.attachment, self.proposal, self.requests)


class Slot(msgspec.Struct, eq=False):
    """Everything about one sequence number.

    Batches are found by digest: in memory (`batches`) and in the store. There, our durable
    "proposal" fact of the view in `stored` has the batch attached, since that is how we voted.
    """

    seq: int
    accepted: Accepted | None = None
    offer: Offer | None = None
    ordered: Accepted | None = None  # what a NEW-VIEW ordered here, while its batch is missing
    sought: bytes = b""  # the digest of a batch that a NEW-VIEW of ours would order
    batches: dict[bytes, BatchContent] = {}
    stored: dict[bytes, int] = {}
    prepares: Votes = msgspec.field(default_factory=lambda: Votes("prepare"))
    commits: Votes = msgspec.field(default_factory=lambda: Votes("commit"))
    prepared: Accepted | None = None  # of the highest view that prepared here
    prepared_proof: PreparedProof | None = None
    committed: tuple[int, bytes] | None = None  # view, digest

    def wants(self, digest: bytes) -> bool:
        """Whether a batch with this digest is needed and missing."""
        if digest in self.batches:
            return False
        if self.sought == digest:
            return True
        if self.ordered is not None and self.ordered.digest == digest:
            return True
        return self.committed is not None and self.committed[1] == digest

    def release(self) -> None:
        """The block exists: of each batch only bytes are kept, and only one copy of them."""
        for digest, batch in self.batches.items():
            batch.proposal = None
            batch.requests = ()
            if digest in self.stored:
                batch.raw = b""

    def prune(self) -> None:
        """Drops batches that nothing refers to any more; called when a view is entered. What we
        voted for stays in the store: others may bring a certificate with our PREPARE into a later
        view.
        """
        kept = {entry.digest for entry in (self.prepared, self.ordered, self.accepted) if entry}
        if self.committed is not None:
            kept.add(self.committed[1])
        self.batches = {key: value for key, value in self.batches.items() if key in kept}


class Log:
    """Slots between the low and the high watermark, and a few below for those behind."""

    def __init__(self, strong: int, window: int) -> None:
        self.strong = strong
        self.window = window
        self.low = 0  # h: the highest proven checkpoint
        self.kept_above = 0  # slots up to here are gone
        self.slots: dict[int, Slot] = {}

    def admits(self, seq: int) -> bool:
        """h < n <= h + L (OSDI'99, section 4.2), and the numbers that are still kept below h."""
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
        if not isinstance(count, int):
            return count
        return self.prepared_now(slot) if count >= self.strong - 1 else None

    def prepared_now(self, slot: Slot) -> Fact | None:
        """prepared(m, v, n, i): its PRE-PREPARE accepted and q-1 PREPAREs of backups (4.2).

        Call it after accepting a PRE-PREPARE too, because the votes may have come first.
        """
        accepted = slot.accepted
        if accepted is None or (slot.prepared and slot.prepared.view >= accepted.view):
            return None
        key = (accepted.view, accepted.digest)
        if slot.prepares.counts.get(key, 0) < self.strong - 1:
            return None
        slot.prepared = accepted
        votes = slot.prepares.matching(*key)[: self.strong - 1]
        slot.prepared_proof = PreparedProof(accepted.signed, votes)
        return Fact.PREPARED

    def add_commit(self, vote: Commit, signed: Signed) -> Fact | Equivocation | None:
        """q COMMITs of one view are the proof of `committed(m, v, n)` (4.2): f+1 honest replicas
        prepared it, so every later view keeps it. Our own view does not matter."""
        slot = self.slot(vote.seq)
        count = slot.commits.add(vote.sender, vote.view, vote.digest, signed)
        if not isinstance(count, int):
            return count
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
        """The slots above `seq`, in order."""
        return [self.slots[number] for number in sorted(self.slots) if number > seq]
