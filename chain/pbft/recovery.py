"""Restart: from durable facts back to a replica that never contradicts its own votes.

Every vote was durable before it left. So what is restored here covers all votes of ours that others
may hold. A vote that did not leave is sent now, with the same bytes: signing is deterministic.
Blocks that were not synced are executed again when peers send the votes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, get_args

import msgspec

from chain.errors import Misuse
from chain.pbft import checkpoint, membership, new_view, progress, status, view_change
from chain.pbft.effects import Broadcast, Durable, FactKind
from chain.pbft.inputs import Received
from chain.pbft.log import Accepted, BatchContent, Slot
from chain.pbft.messages import (
    CheckpointProof,
    Commit,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    Signed,
    ViewChange,
    decode_body,
    decode_proposal,
    decode_signed,
)
from chain.pbft.state import ReplicaState, ViewFact

__all__ = ["restore", "resume"]

_M = TypeVar("_M", PrePrepare, ViewChange, NewView)


def restore(s: ReplicaState, durable: Sequence[Durable]) -> None:
    """Rebuilds the state. Sends nothing yet."""
    facts: dict[FactKind, list[Durable]] = {kind: [] for kind in get_args(FactKind)}
    for fact in sorted(durable, key=lambda fact: (fact.seq, fact.view)):
        facts[fact.kind].append(fact)
    _restore_stable(s, facts["stable"])
    for fact in facts["view"]:
        _restore_view(s, msgspec.msgpack.decode(fact.data, type=ViewFact))
    for fact in facts["proposal"]:
        _restore_proposal(s, decode_signed(fact.data))
    for fact in facts["prepared"]:
        _restore_prepared(s, msgspec.msgpack.decode(fact.data, type=PreparedProof))
    for slot in s.log.above(s.executed):
        batch = slot.accepted_batch
        if batch and batch.proposal:
            s.view.last_time_us = max(s.view.last_time_us, batch.proposal.time_us)
            for request in batch.requests:
                s.pool.propose(request.id, slot.seq)


def _restore_stable(s: ReplicaState, facts: list[Durable]) -> None:
    """The last one moves the window; at the boundary of an epoch it also begins the next."""
    proofs = [msgspec.msgpack.decode(fact.data, type=CheckpointProof) for fact in facts[-2:]]
    if not proofs:
        return
    previous = proofs[0].seq if len(proofs) > 1 else 0
    s.stable = proofs[-1]
    s.log.raise_low(s.stable.seq, max(previous, s.stable.seq - s.log.window))
    if s.pending is not None and s.executed == s.boundary <= s.stable.seq:
        membership.switch(s, s.pending)


def _restore_view(s: ReplicaState, fact: ViewFact) -> None:
    if fact.epoch != s.epoch:
        return
    s.enter_view(fact.view, active=fact.active, new_view=fact.message if fact.active else None)
    if fact.message is None:
        return
    s.timeout.not_quick()
    if not fact.active:
        s.view_changes.add(_view_change(fact.message))


def _restore_proposal(s: ReplicaState, signed: Signed) -> None:
    message = _kept(signed, PrePrepare)
    if message.epoch != s.epoch or not s.log.admits(message.seq):
        return
    slot = s.log.slot(message.seq)
    raw = signed.attachment
    if raw:
        slot.stored[message.digest] = message.view
    elif message.digest == new_view.null_digest(message.seq):
        raw = Proposal.null(message.seq).encode()
    if raw:
        proposal = decode_proposal(raw)
        items = proposal.items if slot.seq > s.executed else ()
        opened = tuple(s.state_machine.open(item) for item in items)
        slot.batches[message.digest] = BatchContent(raw, proposal, opened)
        if slot.seq <= s.executed:
            slot.release()
    if message.view == s.view.number or not s.view.active:
        bare = Signed(signed.body, signed.signature)
        slot.accepted = Accepted(message.view, message.digest, bare)


def _restore_prepared(s: ReplicaState, proof: PreparedProof) -> None:
    message = _kept(proof.pre_prepare, PrePrepare)
    if message.epoch == s.epoch and s.log.admits(message.seq):
        slot = s.log.slot(message.seq)
        slot.prepared = Accepted(message.view, message.digest, proof.pre_prepare)
        slot.prepared_proof = proof


def resume(s: ReplicaState) -> None:
    """First after the start: sends again what may not have arrived, and asks where others are."""
    interval = s.consensus.checkpoint_interval
    if s.executed > s.stable.seq and s.executed % interval == 0:
        checkpoint.vote(s)
    if s.voting:
        _vote_again(s)
    if s.view.active:
        progress.entered(s)
    s.tick_executed = s.executed
    status.on_tick(s)


def _vote_again(s: ReplicaState) -> None:
    view = s.view
    if not view.active:
        s.out.append(Broadcast(s.view_changes.newest[s.me].signed))
        return
    if view.new_view is not None:
        message = _kept(view.new_view, NewView)
        decision = new_view.decide([_view_change(entry) for entry in message.view_changes])
        if view.primary == s.me:
            s.out.append(Broadcast(view.new_view))
        # It may order more than the window of our own checkpoint admits. Its primary would propose
        # those numbers again, and differently.
        checkpoint.prove(s, decision.checkpoint)
        if s.halted:
            return
        view_change.order(s, decision, message.pre_prepares)
    for slot in s.log.above(s.stable.seq):
        _vote_again_in(s, slot)


def _vote_again_in(s: ReplicaState, slot: Slot) -> None:
    accepted, prepared, view = slot.accepted, slot.prepared, s.view.number
    if accepted is None or accepted.view != view or s.me in slot.prepares.votes:
        return
    silent = slot.seq <= s.executed  # then STATUS will ask if anybody needs it
    if s.view.primary != s.me:
        vote = Prepare(s.epoch, s.me, view, slot.seq, accepted.digest)
        signed = s.sign(vote) if silent else s.broadcast(vote)
        s.log.add_prepare(vote, signed)
    elif not silent:
        raw = slot.batches[accepted.digest].raw
        s.out.append(Broadcast(Signed(accepted.signed.body, accepted.signed.signature, raw)))
    if prepared is not None and prepared.view == view:
        commit = Commit(s.epoch, s.me, view, slot.seq, prepared.digest)
        signed = s.sign(commit) if silent else s.broadcast(commit)
        s.log.add_commit(commit, signed)


def _view_change(signed: Signed) -> Received[ViewChange]:
    """Our own, or one of a NEW-VIEW that was verified before it was kept."""
    message = _kept(signed, ViewChange)
    certificates = [_kept(proof.pre_prepare, PrePrepare) for proof in message.prepared]
    return Received(message, signed, prepared=tuple(certificates))


def _kept(signed: Signed, kind: type[_M]) -> _M:
    message = decode_body(signed.body)
    if not isinstance(message, kind):
        raise Misuse(f"a durable fact holds {type(message).__name__} for {kind.__name__}")
    return message
