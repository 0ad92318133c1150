"""Normal-case operation: requests, PRE-PREPARE, PREPARE, COMMIT, execution (OSDI'99, 4.1, 4.2).

Handlers note what they learn; `settle` then takes every step that has become possible. Votes are
counted in `log`; how requests come is in `requests`, checkpoints in `checkpoint`, retransmission in
`status`.
"""

from __future__ import annotations

from chain.pbft import view_timeout
from chain.pbft.effects import Broadcast, Execute, Refuse
from chain.pbft.inputs import Received
from chain.pbft.log import Accepted, Batched, Equivocation, Fact, Offer, Slot
from chain.pbft.messages import Batch, Commit, Prepare, PrePrepare, Proposal, Signed, encode
from chain.pbft.proposal_check import Verdict, check_proposal, oversize
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import Screening, VerifiedRequest

__all__ = [
    "accept_ordered",
    "give_batch",
    "on_commit",
    "on_pre_prepare",
    "on_prepare",
    "settle",
]


# How far ahead of the next acceptable PRE-PREPARE others are kept, in pipeline windows.
OFFERS_AHEAD_WINDOWS = 2


# --- the three phases --------------------------------------------------------------------------


def on_pre_prepare(s: ReplicaState, received: Received) -> None:
    message = received.message
    assert isinstance(message, PrePrepare)
    if not s.log.admits(message.seq) or received.proposal is None:
        return
    slot = s.log.slot(message.seq)
    if slot.wants(message.digest):
        give_batch(s, slot, message.digest, received)
    if message.sender != s.membership.primary(message.view):
        return
    if _contradicts(s, slot, message, received.signed):
        return
    # It waits: for its predecessors; for NEW-VIEW; or, if we have left its view (or are no
    # member), for a quorum to commit it without us.
    current = message.view == s.view
    follow = message.view < s.view and not s.active and slot.offer is None
    fresh = received.proposal.view == message.view
    first = max(s.next_seq, s.executed + 1)
    ahead_max = first + OFFERS_AHEAD_WINDOWS * s.consensus.pipeline_window
    if fresh and (current or follow) and first <= message.seq <= ahead_max:
        if oversize(s.consensus, len(received.requests), len(received.signed.attachment)):
            s.accuse(message.sender, "bad-proposal", received.signed)
            if current:
                s.suspected = "bad-proposal"
            return
        slot.offer = Offer(message, received.signed, received.proposal, received.requests, s.now_us)


def _contradicts(s: ReplicaState, slot: Slot, message: PrePrepare, signed: Signed) -> bool:
    """One PRE-PREPARE per view and number; two are a proof against the primary (4.2)."""
    known: tuple[bytes, Signed] | None = None
    for entry in (slot.accepted, slot.ordered):
        if entry is not None and entry.view == message.view:
            known = (entry.digest, entry.signed)
    if known is None and slot.offer is not None and slot.offer.message.view == message.view:
        known = (slot.offer.message.digest, slot.offer.signed)
    if known is None:
        return False
    if known[0] != message.digest:
        s.accuse_equivocation(Equivocation(message.sender, "pre-prepare", known[1], signed))
        if message.view == s.view:
            s.suspected = "equivocation"
    return True


def on_prepare(s: ReplicaState, received: Received) -> None:
    vote = received.message
    assert isinstance(vote, Prepare)
    if not s.log.admits(vote.seq) or vote.sender == s.membership.primary(vote.view):
        return  # the primary's PRE-PREPARE is its PREPARE
    _on_fact(s, vote.seq, s.log.add_prepare(vote, received.signed))


def on_commit(s: ReplicaState, received: Received) -> None:
    vote = received.message
    assert isinstance(vote, Commit)
    if s.log.admits(vote.seq):
        _on_fact(s, vote.seq, s.log.add_commit(vote, received.signed))


def _on_fact(s: ReplicaState, seq: int, fact: Fact | Equivocation | None) -> None:
    if fact is None:
        return
    if isinstance(fact, Equivocation):
        s.accuse_equivocation(fact)
    elif fact is Fact.PREPARED:
        _commit(s, s.log.slot(seq))
    else:
        s.observe("committed", seq)
        _take_offered(s.log.slot(seq))


def _take_offered(slot: Slot) -> None:
    """Committed by a quorum before (or without) our vote: the content may be at hand already."""
    offer = slot.offer
    if offer is not None and slot.wants(offer.message.digest):
        batch = Batched(offer.signed.attachment, offer.proposal, offer.requests)
        slot.batches[offer.message.digest] = batch


def _commit(s: ReplicaState, slot: Slot) -> None:
    """Prepared in the view that we are in: durable, then COMMIT."""
    certificate, proof = slot.prepared, slot.prepared_proof
    assert certificate is not None
    assert proof is not None
    s.observe("prepared", slot.seq)
    s.persist("prepared", certificate.view, slot.seq, encode(proof))
    if s.active and s.voting and certificate.view == s.view:
        vote = Commit(s.epoch, s.me, certificate.view, slot.seq, certificate.digest)
        _on_fact(s, slot.seq, s.log.add_commit(vote, s.broadcast(vote)))


def _accept(s: ReplicaState, slot: Slot, view: int, digest: bytes, signed: Signed) -> None:
    """The vote: durable with its batch, then PREPARE (or, as primary, the PRE-PREPARE)."""
    batch = slot.batches[digest]
    bare = Signed(signed.body, signed.signature)
    slot.accepted = Accepted(view, digest, bare)
    slot.offer = None
    slot.ordered = None
    if batch.proposal is not None:
        s.last_time_us = max(s.last_time_us, batch.proposal.time_us)
        if slot.seq > s.executed:
            for request in batch.requests:
                s.pool.propose(request.id, slot.seq)
    durable = bare
    if batch.fact_view is None:
        durable = Signed(signed.body, signed.signature, batch.raw)
        batch.fact_view = view
    s.persist("proposal", view, slot.seq, encode(durable))
    if s.primary != s.me:
        s.observe("pre-prepared", slot.seq)
        vote = Prepare(s.epoch, s.me, view, slot.seq, digest)
        _on_fact(s, slot.seq, s.log.add_prepare(vote, s.broadcast(vote)))
    _on_fact(s, slot.seq, s.log.prepared_now(slot))


# --- contents that a NEW-VIEW or a quorum ordered ----------------------------------------------


def give_batch(s: ReplicaState, slot: Slot, digest: bytes, received: Received) -> None:
    """The content behind a wanted digest has arrived; whoever sent it, the digest binds it."""
    if received.proposal is None:
        return
    message = received.message
    raw = message.proposal if isinstance(message, Batch) else received.signed.attachment
    slot.batches[digest] = Batched(raw, received.proposal, received.requests)
    accept_ordered(s, slot)


def accept_ordered(s: ReplicaState, slot: Slot) -> None:
    """Votes for what a NEW-VIEW ordered, as soon as the batch is here (4.4)."""
    ordered = slot.ordered
    if ordered is None or not s.active or not s.voting or ordered.view != s.view:
        return
    if slot.committed is not None and slot.committed[1] != ordered.digest:
        return  # more than f are faulty; still, never vote against what a quorum committed
    if ordered.digest in slot.batches:
        _accept(s, slot, ordered.view, ordered.digest, ordered.signed)


# --- what has become possible ------------------------------------------------------------------


def settle(s: ReplicaState) -> None:
    """Accepts, executes and proposes whatever can be, in this order. Cheap if nothing can."""
    if s.active and s.voting:
        _advance(s)
        while s.primary != s.me and not s.suspected and _accept_next(s):
            _advance(s)
    _execute_next(s)
    if s.active and s.primary == s.me:
        while _propose_next(s):
            pass


def _advance(s: ReplicaState) -> None:
    """Past everything that is executed or accepted in this view."""
    if s.next_seq <= s.executed:
        s.next_seq = s.executed + 1
    while True:
        slot = s.log.get(s.next_seq)
        if slot is None or slot.accepted is None or slot.accepted.view != s.view:
            return
        s.next_seq += 1


def _accept_next(s: ReplicaState) -> bool:
    """Accepts the PRE-PREPARE after the newest accepted one, if it waits and is acceptable.

    In order, so that times rise and a request stands once; and only with the state of the last
    checkpoint in hand, because screening reads it. Above the last checkpoint of an epoch that state
    is the next epoch's, and its primary's pipeline may have been too early to know: votes are void.
    """
    slot = s.log.get(s.next_seq)
    if slot is None or slot.offer is None or s.executed < s.stable.seq:
        return False
    if s.pending is not None and slot.seq > s.boundary:
        return False
    offer = slot.offer
    if offer.message.view != s.view:
        slot.offer = None
        return False
    moment = (s.next_seq, s.executed, s.tick)
    if s.waited == moment:
        return False
    verdict = check_proposal(s, offer)
    if verdict is Verdict.WAIT:
        s.waited = moment  # nothing changes before the next execution or tick
        return False
    slot.offer = None
    if verdict is Verdict.REFUSE:
        s.accuse(s.primary, "bad-proposal", offer.signed)
        s.suspected = "bad-proposal"
    elif verdict is Verdict.DROP:
        view_timeout.too_slow(s)
    if verdict is not Verdict.ACCEPT:
        return False
    digest = offer.message.digest
    if digest not in slot.batches:
        slot.batches[digest] = Batched(offer.signed.attachment, offer.proposal, offer.requests)
    _accept(s, slot, offer.message.view, digest, offer.signed)
    return True


def _execute_next(s: ReplicaState) -> None:
    """Strictly in order, one at a time; nothing of an old epoch above its last checkpoint."""
    if s.busy or s.halted:
        return
    seq = s.executed + 1
    if s.pending is not None and seq > s.boundary:
        return
    slot = s.log.get(seq)
    if slot is None or slot.committed is None:
        return
    batch = slot.batches.get(slot.committed[1])
    if batch is None or batch.proposal is None:
        return
    s.busy = True
    s.out.append(Execute(batch.proposal, batch.requests, s.epoch))


def _propose_next(s: ReplicaState) -> bool:
    """A batch forms from what waits while earlier ones are in flight, never by a timer.

    The more blocks are in flight, the fuller the next has to be: one alone leaves at once, a
    crowd shares the cost of a block.
    """
    in_flight = s.next_seq - 1 - s.executed
    waiting = len(s.pool.fresh)
    if not waiting or waiting * s.consensus.pipeline_window < (
        in_flight * s.consensus.batch_requests_max
    ):
        return False
    if not may_propose(s):
        return False
    requests = _batch(s)
    if requests:
        propose(s, requests)
    return bool(requests)


def may_propose(s: ReplicaState) -> bool:
    """n <= last executed + W, n <= h + L, and everything that NEW-VIEW ordered accepted."""
    seq = s.next_seq
    if not s.is_primary or s.executed < s.stable.seq or s.suspected:
        return False
    if seq > s.executed + s.consensus.pipeline_window or not s.log.admits(seq):
        return False
    if s.pending is not None and seq > s.boundary:
        return False
    slot = s.log.get(seq)
    return slot is None or slot.ordered is None


def _batch(s: ReplicaState) -> list[VerifiedRequest]:
    """The oldest requests that are ready, within the limits of a batch."""
    consensus = s.consensus
    batch: list[VerifiedRequest] = []
    useless: list[bytes] = []
    size = 0
    for entry in s.pool.fresh.values():
        request = entry.request
        if s.state_machine.screen(request) is not Screening.READY:
            useless.append(request.id)
            continue
        size += len(request.item)
        if batch and size > consensus.batch_bytes_max:
            break
        batch.append(request)
        if len(batch) >= consensus.batch_requests_max:
            break
    for request_id in useless:
        s.pool.drop(request_id)
        s.out.append(Refuse(request_id, "refused"))
    return batch


def _last_block_us(s: ReplicaState) -> int:
    """How late the block before our next proposal will be: each is the least step later than its
    parent, at least (`Execute`). Others may have executed it already."""
    time_us = s.time_us
    for seq in range(s.executed + 1, s.next_seq):
        slot = s.log.get(seq)
        batch = slot and slot.accepted and slot.batches.get(slot.accepted.digest)
        proposed_us = batch.proposal.time_us if batch and batch.proposal else 0
        time_us = max(time_us + 1, proposed_us)
    return time_us


def propose(s: ReplicaState, requests: list[VerifiedRequest]) -> None:
    """PRE-PREPARE of the next sequence number; no requests make a heartbeat."""
    seq = s.next_seq
    time_us = max(s.now_us, _last_block_us(s) + 1)
    items = tuple([request.item for request in requests])
    proposal = Proposal(seq, time_us, s.view, items)
    raw = proposal.encode()
    digest = Proposal.digest_of(raw)
    slot = s.log.slot(seq)
    slot.batches[digest] = Batched(raw, proposal, tuple(requests))
    signed = s.sign(PrePrepare(s.epoch, s.me, s.view, seq, digest), raw)
    s.proposed_us = s.now_us
    s.observe("proposed", seq)
    # Durable first: `_accept` persists. It may also go on to COMMIT if all votes were here
    # already, which cannot be: nobody votes before this PRE-PREPARE leaves.
    _accept(s, slot, s.view, digest, signed)
    s.out.append(Broadcast(signed))
    s.next_seq += 1
