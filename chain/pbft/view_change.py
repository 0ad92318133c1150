"""View changes, the signed variant (OSDI'99, section 4.4; timers and joining: 4.5.2).

Leaving a view, collecting VIEW-CHANGEs, making or checking a NEW-VIEW, entering. What a set of
VIEW-CHANGEs decides is computed in `new_view`; messages lost are sent again by `status`.
"""

from __future__ import annotations

from chain.errors import PeerFault
from chain.pbft import checkpoint, new_view, normal, progress, requests, view_timeout
from chain.pbft.effects import Broadcast, CancelTimer, SetTimer, Timer
from chain.pbft.inputs import Received, VerifiedProof, VerifiedViewChange
from chain.pbft.log import Accepted, Batched, Equivocation
from chain.pbft.messages import (
    FetchBatch,
    NewView,
    PrePrepare,
    Proposal,
    Signed,
    ViewChange,
    encode,
)
from chain.pbft.new_view import Decision
from chain.pbft.state import ReplicaState, ViewFact, as_new_view, as_view_change

__all__ = [
    "on_new_view",
    "on_timer",
    "on_view_change",
    "order",
    "start",
]


# --- leaving -----------------------------------------------------------------------------------


def start(s: ReplicaState, view: int) -> None:
    """Leaves the current view and asks for `view`: durable, then VIEW-CHANGE."""
    assert view > s.view
    s.view, s.active, s.primary = view, False, s.membership.primary(view)
    s.suspected = ""
    s.watch = None
    s.view_timer_runs = False
    s.new_view = None
    s.out += [CancelTimer(Timer.VIEW), CancelTimer(Timer.HEARTBEAT)]
    s.observe("view-change", s.executed)
    received = _own_view_change(s)
    s.persist("view", 0, 0, encode(ViewFact(s.epoch, view, False, received.signed)))
    s.out.append(Broadcast(received.signed))
    s.view_changes[s.me] = received
    _collected(s)


def _own_view_change(s: ReplicaState) -> Received:
    """P: the prepared certificate of the highest view for every number above h."""
    proofs, opened = [], []
    for slot in s.log.above(s.stable.seq):
        if slot.prepared is not None and slot.prepared_proof is not None:
            proofs.append(slot.prepared_proof)
            certificate = slot.prepared
            sender = s.membership.primary(certificate.view)
            pre_prepare = PrePrepare(
                s.epoch, sender, certificate.view, slot.seq, certificate.digest
            )
            opened.append(VerifiedProof(pre_prepare, ()))
    stable = s.stable
    message = ViewChange(
        s.epoch, s.me, s.view, stable.seq, stable.head, stable.votes, tuple(proofs)
    )
    return Received(message, s.sign(message), view_change=VerifiedViewChange((), tuple(opened)))


def on_timer(s: ReplicaState) -> None:
    """In an active view: has the primary failed? Waiting for a view: on to the next (4.5.2)."""
    if s.active:
        if reason := progress.undone(s):
            view_timeout.failed(s)
            s.suspected = reason
    elif s.view_timer_runs:
        view_timeout.failed(s)
        start(s, s.view + 1)


# --- collecting --------------------------------------------------------------------------------


def on_view_change(s: ReplicaState, received: Received) -> None:
    """Each sender's newest is kept: a peer fills no more than its own place."""
    message = as_view_change(received)
    if message.view < s.view or (message.view == s.view and s.active):
        return
    known = s.view_change_of(message.sender)
    if known is not None and known.view >= message.view:
        first = s.view_changes[message.sender].signed
        if known.view == message.view and first.body != received.signed.body:
            s.accuse_equivocation(
                Equivocation(message.sender, "view-change", first, received.signed)
            )
        return
    try:
        new_view.check_window(received, s.consensus.log_window)
    except PeerFault as fault:
        # It alone is dropped: an honest one beside it counts all the same.
        s.accuse(message.sender, fault.code, received.signed)
        return
    s.view_changes[message.sender] = received
    _join(s)
    _collected(s)


def _views_asked(s: ReplicaState) -> list[int]:
    return [as_view_change(received).view for _, received in sorted(s.view_changes.items())]


def _join(s: ReplicaState) -> None:
    """f+1 ask for views above ours: an honest one among them. Join the smallest (4.5.2)."""
    higher = [view for view in _views_asked(s) if view > s.view]
    if len(higher) >= s.quorum.weak and s.voting:
        start(s, min(higher))


def _collected(s: ReplicaState) -> None:
    """The timer for NEW-VIEW starts when q ask for our view or a later one: a replica alone
    stays where it is, and views do not run apart (4.5.2)."""
    if s.active or not s.voting:
        return
    asked = [view for view in _views_asked(s) if view >= s.view]
    if len(asked) >= s.quorum.strong and not s.view_timer_runs:
        s.view_timer_runs = True
        s.out.append(SetTimer(Timer.VIEW, s.timeout_us))
    if s.primary == s.me and asked.count(s.view) >= s.quorum.strong:
        _make_new_view(s)


# --- making and checking NEW-VIEW --------------------------------------------------------------


def _make_new_view(s: ReplicaState) -> None:
    chosen = [
        received
        for _, received in sorted(s.view_changes.items())
        if as_view_change(received).view == s.view
    ][: s.quorum.strong]
    decision = new_view.decide(chosen)
    first = decision.checkpoint.seq + 1
    entries = [
        PrePrepare(s.epoch, s.me, s.view, seq, digest)
        for seq, digest in enumerate(decision.ordered, start=first)
    ]
    pre_prepares = tuple(s.sign(entry) for entry in entries)
    message = NewView(
        s.epoch, s.me, s.view, tuple(received.signed for received in chosen), pre_prepares
    )
    signed = s.sign(message)
    s.persist("view", 0, 0, encode(ViewFact(s.epoch, s.view, True, signed)))
    s.out.append(Broadcast(signed))
    _enter(s, signed, decision, pre_prepares)


def on_new_view(s: ReplicaState, received: Received) -> None:
    """Every backup recomputes O from V and takes nothing else (4.4)."""
    message = as_new_view(received)
    if message.view < s.view or (message.view == s.view and s.active) or not s.voting:
        return
    try:
        for view_change in received.new_view:
            new_view.check_window(view_change, s.consensus.log_window)
        decision = new_view.decide(list(received.new_view))
        if not new_view.matches(received, decision):
            raise PeerFault("bad-new-view", "O is not what V decides")
    except PeerFault as fault:
        s.accuse(message.sender, fault.code, received.signed)
        if message.view == s.view:
            start(s, s.view + 1)
        return
    s.view, s.primary = message.view, message.sender
    s.persist("view", 0, 0, encode(ViewFact(s.epoch, s.view, True, received.signed)))
    _enter(s, received.signed, decision, message.pre_prepares)


# --- entering ----------------------------------------------------------------------------------


def _enter(
    s: ReplicaState, signed: Signed, decision: Decision, pre_prepares: tuple[Signed, ...]
) -> None:
    s.active = True
    view_timeout.entered(s)
    s.new_view = signed
    s.view_timer_runs = False
    s.suspected = ""
    s.view_changes = {
        sender: received
        for sender, received in sorted(s.view_changes.items())
        if as_view_change(received).view > s.view
    }
    s.observe("view", s.executed)
    _drop_unordered(s)
    checkpoint.prove(s, decision.checkpoint)
    if s.halted:
        return
    missing = order(s, decision, pre_prepares)
    for seq, digest in missing:
        s.broadcast(FetchBatch(s.epoch, s.me, seq, digest))
    progress.entered(s)
    requests.forward_waiting(s, new_primary=True)


def _drop_unordered(s: ReplicaState) -> None:
    """Proposals of older views count no more; their requests wait again. Certificates stay."""
    for slot in s.log.above(0):
        if slot.seq > s.executed and slot.accepted is not None:
            batch = slot.batches.get(slot.accepted.digest)
            if batch is not None:
                requests.wait_again(s, slot.seq, batch.requests)
        slot.offer = slot.offer if slot.offer and slot.offer.message.view == s.view else None
        slot.accepted = None
        slot.ordered = None
    s.waited = None
    s.last_time_us = s.time_us


def order(
    s: ReplicaState, decision: Decision, pre_prepares: tuple[Signed, ...]
) -> list[tuple[int, bytes]]:
    """Takes O as the PRE-PREPAREs of this view; gives what is still missing of their batches.

    New proposals follow O, and wait until all of it is accepted (`normal` keeps the order).
    """
    missing = []
    first = decision.checkpoint.seq + 1
    s.next_seq = max(first, s.executed + 1)
    entries = zip(decision.ordered, pre_prepares, strict=True)
    for seq, (digest, signed) in enumerate(entries, start=first):
        if not s.log.admits(seq):
            continue
        slot = s.log.slot(seq)
        if slot.accepted is not None and slot.accepted.view == s.view:
            continue  # restored after a restart
        slot.ordered = Accepted(s.view, digest, signed)
        if digest == new_view.null_digest(seq):
            null = Proposal.null(seq)
            slot.batches.setdefault(digest, Batched(null.encode(), null, ()))
        normal.accept_ordered(s, slot)
        if slot.wants(digest):
            missing.append((seq, digest))
    for slot in s.log.above(0):
        slot.prune()
    return missing
