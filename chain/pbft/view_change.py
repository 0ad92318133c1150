"""View changes, the signed variant (OSDI'99, section 4.4; timers and joining: 4.5.2).

Leaving a view, collecting VIEW-CHANGEs, making or checking a NEW-VIEW, entering. `new_view`
computes the decision of a set of VIEW-CHANGEs; `status` sends lost messages again.

A primary makes a NEW-VIEW of VIEW-CHANGEs only if it holds every batch that they order. PREPAREs
are not durable, so a power cut may take a batch from all honest replicas that prepared it, while a
faulty replica keeps the certificate. Such a batch is not committed, and the q honest VIEW-CHANGEs
do not name it.
"""

from __future__ import annotations

from chain.errors import PeerFault
from chain.pbft import checkpoint, new_view, normal, progress, requests
from chain.pbft.effects import Broadcast, CancelTimer, SetTimer, Timer
from chain.pbft.inputs import Received
from chain.pbft.log import Accepted, BatchContent
from chain.pbft.messages import FetchBatch, NewView, PrePrepare, Proposal, Signed, ViewChange
from chain.pbft.new_view import Decision
from chain.pbft.state import ReplicaState
from chain.pbft.votes import Equivocation

__all__ = [
    "continue_new_view",
    "on_new_view",
    "on_timer",
    "on_view_change",
    "start",
]


# --- leaving -----------------------------------------------------------------------------------


def start(s: ReplicaState, view: int) -> None:
    """Leaves the current view and asks for `view`: durable, then VIEW-CHANGE."""
    assert view > s.view.number
    s.enter_view(view, active=False)
    for slot in s.log.above(0):
        slot.sought = b""
    s.out += [CancelTimer(Timer.VIEW), CancelTimer(Timer.HEARTBEAT)]
    s.observe("view-change", s.executed)
    received = _own_view_change(s)
    s.persist_view(received.signed)
    s.out.append(Broadcast(received.signed))
    s.view_changes.add(received)
    _collected(s)


def _own_view_change(s: ReplicaState) -> Received[ViewChange]:
    """P: the prepared certificate of the highest view for every number above h."""
    proofs, pre_prepares = [], []
    for slot in s.log.above(s.stable.seq):
        if slot.prepared is not None and slot.prepared_proof is not None:
            view, digest = slot.prepared.view, slot.prepared.digest
            primary = s.membership.primary(view)
            proofs.append(slot.prepared_proof)
            pre_prepares.append(PrePrepare(s.epoch, primary, view, slot.seq, digest))
    seq, head, votes = s.stable.seq, s.stable.head, s.stable.votes
    message = ViewChange(s.epoch, s.me, s.view.number, seq, head, votes, tuple(proofs))
    return Received(message, s.sign(message), prepared=tuple(pre_prepares))


def on_timer(s: ReplicaState) -> None:
    """In an active view: has the primary failed? While waiting for a view: asks for the next
    (4.5.2)."""
    if s.view.active:
        if progress.has_timed_out(s):
            s.timeout.failed(active=True)
            s.view.suspected = True
    elif s.view.new_view_timer_runs:
        s.timeout.failed(active=False)
        start(s, s.view.number + 1)


# --- collecting --------------------------------------------------------------------------------


def on_view_change(s: ReplicaState, received: Received[ViewChange]) -> None:
    if _is_old(s, received.message.view):
        return
    stale = s.view_changes.stale(received)
    if isinstance(stale, Equivocation):
        s.accuse_equivocation(stale)
    if stale:
        return
    try:
        new_view.check_window(received, s.consensus.log_window)
    except PeerFault as fault:
        # Only this VIEW-CHANGE is dropped; those of other senders still count.
        s.accuse(received.message.sender, fault.code, received.signed)
        return
    s.view_changes.add(received)
    # If the primary itself leaves our view (it has restarted), nothing more is decided in it.
    s.view.suspected |= s.view.active and received.message.sender == s.view.primary
    _join(s)
    _collected(s)


def _is_old(s: ReplicaState, view: int) -> bool:
    return view < s.view.number or (view == s.view.number and s.view.active)


def _join(s: ReplicaState) -> None:
    """f+1 ask for views above ours: an honest one among them. Join the smallest (4.5.2)."""
    higher = s.view_changes.views(at_least=s.view.number + 1)
    if len(higher) >= s.quorum.weak and s.voting:
        start(s, min(higher))


def _collected(s: ReplicaState) -> None:
    """The timer for NEW-VIEW starts when q ask for our view or a later one: a replica alone
    stays where it is, and views do not run apart (4.5.2)."""
    view = s.view
    if view.active or not s.voting:
        return
    asked = s.view_changes.views(at_least=view.number)
    if len(asked) >= s.quorum.strong and not view.new_view_timer_runs:
        view.new_view_timer_runs = True
        s.out.append(SetTimer(Timer.VIEW, s.timeout.us))
    if view.primary == s.me and asked.count(view.number) >= s.quorum.strong:
        _make_new_view(s)


# --- making and checking NEW-VIEW --------------------------------------------------------------


def continue_new_view(s: ReplicaState) -> None:
    """Goes on when a batch that a NEW-VIEW of ours waits for has arrived."""
    if s.view.sought_arrived:
        s.view.sought_arrived = False
        _collected(s)


def _make_new_view(s: ReplicaState) -> None:
    """Any q VIEW-CHANGEs will do, because each such set keeps what may be committed (4.4). Those
    that name a batch which we cannot get are left out. In TOCS'02 (section 3.2.4, A2), f+1 replicas
    vouch for each batch instead."""
    view = s.view.number
    candidates = s.view_changes.asking_for(view)
    while True:
        if len(candidates) < s.quorum.strong:
            return  # until a batch or another VIEW-CHANGE arrives; the timer goes on
        chosen = candidates[: s.quorum.strong]
        decision = new_view.decide(chosen)
        checkpoint.prove(s, decision.checkpoint)
        if s.halted:
            return
        lacking = _lacking(s, decision)
        if not lacking:
            break
        _seek(s, lacking)
        candidates = [each for each in candidates if not _names_any(each, lacking)]
    if _contradicts_a_commit(s, view, decision):
        return  # as in `on_new_view`; the timer brings the next view
    pre_prepares = tuple(
        s.sign(PrePrepare(s.epoch, s.me, view, seq, digest))
        for seq, digest in enumerate(decision.ordered, start=decision.checkpoint.seq + 1)
    )
    proof = tuple(received.signed for received in chosen)
    message = NewView(s.epoch, s.me, view, proof, pre_prepares)
    _enter(s, message, s.sign(message), decision)


def _lacking(s: ReplicaState, decision: Decision) -> dict[int, bytes]:
    """By number, the digest of each ordered batch that is missing. Executed ones are not missing:
    others have them too. Up to a proven checkpoint, blocks can be fetched."""
    lacking = {}
    had = max(s.executed, s.stable.seq)
    for seq, digest in enumerate(decision.ordered, start=decision.checkpoint.seq + 1):
        if seq > had and digest != new_view.null_digest(seq):
            slot = s.log.get(seq)
            if slot is None or digest not in slot.batches:
                lacking[seq] = digest
    return lacking


def _names_any(received: Received[ViewChange], lacking: dict[int, bytes]) -> bool:
    return any(lacking.get(entry.seq) == entry.digest for entry in received.prepared)


def _seek(s: ReplicaState, lacking: dict[int, bytes]) -> None:
    for seq, digest in lacking.items():
        slot = s.log.slot(seq)
        if slot.sought != digest:
            slot.sought = digest
            s.broadcast(FetchBatch(s.epoch, s.me, seq, digest))


def on_new_view(s: ReplicaState, received: Received[NewView]) -> None:
    """Every backup recomputes O from V and takes nothing else (4.4)."""
    message = received.message
    if _is_old(s, message.view) or not s.voting:
        return
    try:
        for view_change in received.view_changes:
            new_view.check_window(view_change, s.consensus.log_window)
        decision = new_view.decide(received.view_changes)
        if not new_view.matches(received, decision):
            raise PeerFault("bad-new-view", "O is not what V decides")
    except PeerFault as fault:
        s.accuse(message.sender, fault.code, received.signed)
        if message.view == s.view.number:
            start(s, s.view.number + 1)
        return
    if _contradicts_a_commit(s, message.view, decision):
        # With at most f faulty replicas, every V keeps what q COMMITs of an earlier view decided.
        # So more are faulty, or have lost their disks: this view is refused. Its primary is not
        # to blame.
        s.observe("contradicted", s.executed)
        if message.view == s.view.number:
            start(s, s.view.number + 1)
        return
    _enter(s, message, received.signed, decision)


def _contradicts_a_commit(s: ReplicaState, view: int, decision: Decision) -> bool:
    first = decision.checkpoint.seq + 1
    ordered = dict(enumerate(decision.ordered, start=first))
    return any(
        slot.committed is not None
        and slot.committed[0] < view
        and slot.committed[1] != ordered.get(slot.seq)
        for slot in s.log.above(decision.checkpoint.seq)
    )


# --- entering ----------------------------------------------------------------------------------


def _enter(s: ReplicaState, message: NewView, signed: Signed, decision: Decision) -> None:
    """Makes the view durable. Then, if we are its primary, sends NEW-VIEW."""
    s.enter_view(message.view, active=True, new_view=signed)
    s.timeout.entered(s.now_us)
    s.view_changes.forget(message.view)
    s.persist_view()
    if s.is_primary:
        s.out.append(Broadcast(signed))
    s.observe("view", s.executed)
    _drop_unordered(s)
    checkpoint.prove(s, decision.checkpoint)
    if s.halted:
        return
    missing = _order(s, decision, message.pre_prepares)
    for seq, digest in missing:
        s.broadcast(FetchBatch(s.epoch, s.me, seq, digest))
    progress.entered(s)
    requests.forward_waiting(s, new_primary=True)


def _drop_unordered(s: ReplicaState) -> None:
    """Proposals of older views no longer count; their requests wait again. Certificates stay."""
    for slot in s.log.above(0):
        if slot.seq > s.executed:
            requests.withdraw(s, slot)
        if slot.offer is not None and slot.offer.message.view != s.view.number:
            slot.offer = None
        slot.accepted = None
        slot.ordered = None
        slot.sought = b""


def _order(
    s: ReplicaState, decision: Decision, pre_prepares: tuple[Signed, ...]
) -> list[tuple[int, bytes]]:
    """Takes O as the PRE-PREPAREs of this view; returns which of their batches are still missing.

    New proposals follow O, and wait until all of it is accepted (`normal` keeps the order).
    """
    missing = []
    first = decision.checkpoint.seq + 1
    s.view.next_seq = max(first, s.executed + 1)
    entries = zip(decision.ordered, pre_prepares, strict=True)
    for seq, (digest, signed) in enumerate(entries, start=first):
        if not s.log.admits(seq):
            continue
        slot = s.log.slot(seq)
        slot.ordered = Accepted(s.view.number, digest, signed)
        if digest == new_view.null_digest(seq):
            null = Proposal.null(seq)
            slot.batches.setdefault(digest, BatchContent(null.encode(), null, ()))
        normal.accept_ordered(s, slot)
        if slot.wants(digest):
            missing.append((seq, digest))
    for slot in s.log.above(0):
        slot.prune()
    return missing
