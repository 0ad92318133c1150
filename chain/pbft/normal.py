"""Normal-case operation: PRE-PREPARE, PREPARE, COMMIT, execution, proposing (OSDI'99, 4.1, 4.2).

A handler counts a vote, keeps an offer (a PRE-PREPARE that waits), and sends the COMMIT or PREPARE
that follows at once. `proceed`, after every input, accepts offers, executes and proposes.
`requests` takes requests, `checkpoint` has the checkpoints, `status` the retransmission.
"""

from __future__ import annotations

from chain.pbft.effects import Broadcast, Execute, Refuse, Sync
from chain.pbft.inputs import Received
from chain.pbft.log import Accepted, BatchContent, Fact, Offer, Slot
from chain.pbft.messages import Batch, Commit, Prepare, PrePrepare, Proposal, Signed, encode
from chain.pbft.proposal_check import Verdict, check_proposal, oversize
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import Screening, VerifiedRequest
from chain.pbft.votes import Equivocation

__all__ = [
    "accept_ordered",
    "may_propose",
    "on_commit",
    "on_pre_prepare",
    "on_prepare",
    "proceed",
    "propose",
    "take_batch",
]


# How far ahead of the next acceptable PRE-PREPARE others are kept, in pipeline windows.
OFFERS_AHEAD_WINDOWS = 2


# --- the three phases --------------------------------------------------------------------------


def on_pre_prepare(s: ReplicaState, received: Received[PrePrepare]) -> None:
    message, view = received.message, s.view
    if not s.log.admits(message.seq) or received.proposal is None:
        return
    slot = s.log.slot(message.seq)
    if slot.wants(message.digest):
        take_batch(s, slot, message.digest, received)
    if message.sender != s.membership.primary(message.view):
        return
    if _is_known(s, slot, message, received.signed):
        return
    # It waits: for its predecessors; for NEW-VIEW; or, if we have left its view (or are no
    # member), for a quorum to commit it without us.
    current = message.view == view.number
    follow = message.view < view.number and not view.active and slot.offer is None
    fresh = received.proposal.view == message.view
    first = max(view.next_seq, s.executed + 1)
    ahead_max = first + OFFERS_AHEAD_WINDOWS * s.consensus.pipeline_window
    if fresh and (current or follow) and first <= message.seq <= ahead_max:
        if oversize(s.consensus, len(received.requests), len(received.signed.attachment)):
            s.accuse(message.sender, "bad-proposal", received.signed)
            view.suspected |= current
            return
        slot.offer = Offer(message, received.signed, received.proposal, received.requests, s.now_us)


def _is_known(s: ReplicaState, slot: Slot, message: PrePrepare, signed: Signed) -> bool:
    """Whether this view has a PRE-PREPARE here. Two different ones convict the primary (4.2)."""
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
        s.view.suspected |= message.view == s.view.number
    return True


def on_prepare(s: ReplicaState, received: Received[Prepare]) -> None:
    vote = received.message
    if not s.log.admits(vote.seq) or vote.sender == s.membership.primary(vote.view):
        return  # the primary's PRE-PREPARE is its PREPARE
    _on_fact(s, vote.seq, s.log.add_prepare(vote, received.signed))


def on_commit(s: ReplicaState, received: Received[Commit]) -> None:
    vote = received.message
    if s.log.admits(vote.seq):
        _on_fact(s, vote.seq, s.log.add_commit(vote, received.signed))


def _on_fact(s: ReplicaState, seq: int, fact: Fact | Equivocation | None) -> None:
    if fact is None:
        return
    slot = s.log.slot(seq)
    if fact is Fact.PREPARED:
        _commit(s, slot)
    elif fact is Fact.COMMITTED:
        s.observe("committed", seq)
        # Committed by a quorum before (or without) our vote: the batch may be here already.
        if slot.offer is not None and slot.wants(slot.offer.message.digest):
            slot.batches[slot.offer.message.digest] = slot.offer.content
    else:
        s.accuse_equivocation(fact)


def _commit(s: ReplicaState, slot: Slot) -> None:
    """The slot is prepared in our view: makes its certificate and batch durable, then sends the
    COMMIT. That is the only vote that must be durable before it leaves (`recovery`)."""
    certificate, proof = slot.prepared, slot.prepared_proof
    assert certificate is not None
    assert proof is not None
    s.observe("prepared", slot.seq)
    s.persist("prepared", certificate.view, slot.seq, encode(proof))
    if s.view.active and s.voting and certificate.view == s.view.number:
        s.out.append(Sync())
        vote = Commit(s.epoch, s.me, certificate.view, slot.seq, certificate.digest)
        _on_fact(s, slot.seq, s.log.add_commit(vote, s.broadcast(vote)))


def _accept(s: ReplicaState, slot: Slot, entry: Accepted) -> None:
    """Votes: PREPARE (or, as primary, the PRE-PREPARE). The vote may leave before it is durable,
    because a replica that restarts does not vote again in this view (`recovery`)."""
    batch, signed = slot.batches[entry.digest], entry.signed
    slot.accepted, slot.offer, slot.ordered = entry, None, None
    if batch.proposal is not None:
        s.view.last_time_us = max(s.view.last_time_us, batch.proposal.time_us)
        if slot.seq > s.executed:
            for request in batch.requests:
                s.pool.propose(request.id, slot.seq)
    if entry.digest not in slot.stored:
        slot.stored[entry.digest] = entry.view
        signed = Signed(signed.body, signed.signature, batch.raw)
    s.persist("proposal", entry.view, slot.seq, encode(signed))
    if s.view.primary != s.me:
        s.observe("pre-prepared", slot.seq)
        vote = Prepare(s.epoch, s.me, entry.view, slot.seq, entry.digest)
        _on_fact(s, slot.seq, s.log.add_prepare(vote, s.broadcast(vote)))
    _on_fact(s, slot.seq, s.log.prepared_now(slot))


# --- batches that a NEW-VIEW or a quorum ordered -----------------------------------------------


def take_batch(
    s: ReplicaState, slot: Slot, digest: bytes, received: Received[PrePrepare | Batch]
) -> None:
    """The batch behind a wanted digest has arrived. The digest binds it, so any sender will do."""
    if received.proposal is None:
        return
    message = received.message
    raw = message.proposal if isinstance(message, Batch) else received.signed.attachment
    slot.batches[digest] = BatchContent(raw, received.proposal, received.requests)
    s.view.sought_arrived |= slot.sought == digest
    accept_ordered(s, slot)


def accept_ordered(s: ReplicaState, slot: Slot) -> None:
    """Votes for what a NEW-VIEW ordered, as soon as the batch is here (4.4)."""
    ordered = slot.ordered
    if ordered is None or not s.view.active or not s.voting or ordered.view != s.view.number:
        return
    if slot.committed is not None and slot.committed[1] != ordered.digest:
        return  # more than f are faulty; still, never vote against what a quorum committed
    if ordered.digest in slot.batches:
        _accept(s, slot, ordered)


# --- what has become possible ------------------------------------------------------------------


def proceed(s: ReplicaState) -> None:
    """Accepts, executes and proposes what is possible now, in this order. Cheap if nothing is
    possible."""
    view = s.view
    if view.active and s.voting:
        _advance(s)
        while view.primary != s.me and not view.suspected and _accept_next(s):
            _advance(s)
    _execute_next(s)
    if view.active and view.primary == s.me:
        while _propose_next(s):
            pass


def _advance(s: ReplicaState) -> None:
    """Moves `next_seq` past everything that is executed or accepted in this view."""
    view = s.view
    if view.next_seq <= s.executed:
        view.next_seq = s.executed + 1
    while True:
        slot = s.log.get(view.next_seq)
        if slot is None or slot.accepted is None or slot.accepted.view != view.number:
            return
        view.next_seq += 1


def _accept_next(s: ReplicaState) -> bool:
    """Accepts the PRE-PREPARE after the newest accepted one, if it waits and is acceptable.

    Proposals are accepted in order, so that times rise and no request stands in two of them. None
    is accepted until the last checkpoint is executed, because screening reads its state. None is
    accepted above the last checkpoint of an epoch: votes are void there, and screening would read
    the next epoch's state, which the primary may not have known when it proposed.
    """
    view = s.view
    slot = s.log.get(view.next_seq)
    if slot is None or slot.offer is None or s.executed < s.stable.seq:
        return False
    if s.pending is not None and slot.seq > s.boundary:
        return False
    offer = slot.offer
    if offer.message.view != view.number:
        slot.offer = None
        return False
    moment = (view.next_seq, s.executed, s.tick)
    if view.checked_at == moment:
        return False
    match check_proposal(s, offer):
        case Verdict.WAIT:
            view.checked_at = moment  # nothing changes before the next execution or tick
            return False
        case Verdict.LATE:
            # No vote, but the batch is kept: others' COMMITs may decide it. A replica that stood
            # still gets all that it missed too late, and has to follow without votes of its own.
            view.checked_at = moment
            s.timeout.not_quick()
            return False
        case Verdict.REFUSE:
            slot.offer = None
            s.accuse(view.primary, "bad-proposal", offer.signed)
            view.suspected = True
            return False
        case Verdict.ACCEPT:
            slot.offer = None
    digest = offer.message.digest
    if digest not in slot.batches:
        slot.batches[digest] = offer.content
    _accept(s, slot, Accepted(offer.message.view, digest, offer.signed.bare))
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
    """Makes a batch of the requests that waited while earlier ones were in flight. No timer.

    The more blocks are in flight, the fuller the next has to be. A single request leaves at once;
    under load, batches grow.
    """
    in_flight = s.view.next_seq - 1 - s.executed
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
    seq = s.view.next_seq
    if not s.is_primary or s.executed < s.stable.seq or s.view.suspected:
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
    """The time of the block before our next proposal: each is at least 1 us later than its parent
    (`Execute`). Others may have executed it already."""
    time_us = s.time_us
    for seq in range(s.executed + 1, s.view.next_seq):
        slot = s.log.get(seq)
        batch = slot.batches.get(slot.accepted.digest) if slot and slot.accepted else None
        proposed_us = batch.proposal.time_us if batch and batch.proposal else 0
        time_us = max(time_us + 1, proposed_us)
    return time_us


def propose(s: ReplicaState, requests: list[VerifiedRequest]) -> None:
    """PRE-PREPARE of the next sequence number; no requests make a heartbeat."""
    view, seq = s.view, s.view.next_seq
    time_us = max(s.now_us, _last_block_us(s) + 1)
    items = tuple([request.item for request in requests])
    proposal = Proposal(seq, time_us, view.number, items)
    raw = proposal.encode()
    digest = Proposal.digest_of(raw)
    slot = s.log.slot(seq)
    slot.batches[digest] = BatchContent(raw, proposal, tuple(requests))
    signed = s.sign(PrePrepare(s.epoch, s.me, view.number, seq, digest), raw)
    view.proposed_us = s.now_us
    s.observe("proposed", seq)
    # `_accept` cannot go on to COMMIT here, because nobody votes before this PRE-PREPARE leaves.
    _accept(s, slot, Accepted(view.number, digest, signed.bare))
    s.out.append(Broadcast(signed))
    view.next_seq += 1
