"""Restart: from durable facts back to a replica that never contradicts its own votes.

Every vote was made durable before it left, so what is restored here covers whatever others may
hold of us. A fact whose vote did not leave is voted again, with the same bytes: signing is
deterministic. Blocks that were not synced are executed again when peers send the votes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec

from chain.errors import Misuse
from chain.pbft import checkpoint, membership, new_view, progress, status, view_change
from chain.pbft.effects import Broadcast, Durable, FactKind
from chain.pbft.inputs import Received, VerifiedProof, VerifiedViewChange
from chain.pbft.log import Accepted, Batched, Slot
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


def restore(s: ReplicaState, durable: Sequence[Durable]) -> None:
    """Rebuilds the state; says nothing yet."""
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
        batch = slot.accepted and slot.batches.get(slot.accepted.digest)
        if batch and batch.proposal:
            s.last_time_us = max(s.last_time_us, batch.proposal.time_us)
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
        membership.switch(s)


def _restore_view(s: ReplicaState, fact: ViewFact) -> None:
    if fact.epoch != s.epoch:
        return
    s.view, s.active = fact.view, fact.active
    s.primary = s.membership.primary(fact.view)
    if fact.message is None:
        return
    s.quick = 0
    if fact.active:
        s.new_view = fact.message
    else:
        s.view_changes[s.me] = _opened(fact.message)


def _restore_proposal(s: ReplicaState, signed: Signed) -> None:
    message = decode_body(signed.body)
    if not isinstance(message, PrePrepare):
        raise Misuse("a durable proposal is not a PRE-PREPARE")
    if message.epoch != s.epoch or not s.log.admits(message.seq):
        return
    slot = s.log.slot(message.seq)
    if signed.attachment:
        batch = _batched(s, message.seq, signed.attachment, message.view)
        slot.batches[message.digest] = batch
    elif message.digest == new_view.null_digest(message.seq):
        raw = Proposal.null(message.seq).encode()
        slot.batches[message.digest] = _batched(s, message.seq, raw, None)
    if message.view == s.view or not s.active:
        bare = Signed(signed.body, signed.signature)
        slot.accepted = Accepted(message.view, message.digest, bare)


def _batched(s: ReplicaState, seq: int, raw: bytes, fact_view: int | None) -> Batched:
    proposal = decode_proposal(raw)
    if seq <= s.executed:
        batch = Batched(raw, proposal, (), fact_view)
        batch.release()
        return batch
    requests = tuple(s.state_machine.open(item) for item in proposal.items)
    return Batched(raw, proposal, requests, fact_view)


def _restore_prepared(s: ReplicaState, proof: PreparedProof) -> None:
    message = decode_body(proof.pre_prepare.body)
    if not isinstance(message, PrePrepare):
        raise Misuse("a durable certificate is not of a PRE-PREPARE")
    if message.epoch == s.epoch and s.log.admits(message.seq):
        slot = s.log.slot(message.seq)
        slot.prepared = Accepted(message.view, message.digest, proof.pre_prepare)
        slot.prepared_proof = proof


def resume(s: ReplicaState) -> None:
    """First thing after the start: says again what may not have arrived, and asks."""
    interval = s.consensus.checkpoint_interval
    if s.executed > s.stable.seq and s.executed % interval == 0:
        s.heads[s.executed] = s.head
        checkpoint.vote(s)
    if s.voting:
        _vote_again(s)
    if s.active:
        progress.entered(s)
    s.tick_executed = s.executed
    status.on_tick(s)


def _vote_again(s: ReplicaState) -> None:
    if not s.active:
        s.out.append(Broadcast(s.view_changes[s.me].signed))
        return
    if s.new_view is not None:
        received = _opened(s.new_view)
        decision = new_view.decide(list(received.new_view))
        if s.primary == s.me:
            s.out.append(Broadcast(s.new_view))
        message = received.message
        assert isinstance(message, NewView)
        # It may order more than the window of our own checkpoint admits: what fell out would be
        # proposed anew, differently, by its primary.
        checkpoint.prove(s, decision.checkpoint)
        if s.halted:
            return
        view_change.order(s, decision, message.pre_prepares)
    for slot in s.log.above(s.stable.seq):
        _vote_again_in(s, slot)


def _vote_again_in(s: ReplicaState, slot: Slot) -> None:
    accepted, prepared = slot.accepted, slot.prepared
    if accepted is None or accepted.view != s.view or s.me in slot.prepares.votes:
        return
    silent = slot.seq <= s.executed  # then STATUS will ask if anybody needs it
    if s.primary != s.me:
        vote = Prepare(s.epoch, s.me, s.view, slot.seq, accepted.digest)
        signed = s.sign(vote) if silent else s.broadcast(vote)
        s.log.add_prepare(vote, signed)
    elif not silent:
        raw = slot.batches[accepted.digest].raw
        s.out.append(Broadcast(Signed(accepted.signed.body, accepted.signed.signature, raw)))
    if prepared is not None and prepared.view == s.view:
        commit = Commit(s.epoch, s.me, s.view, slot.seq, prepared.digest)
        signed = s.sign(commit) if silent else s.broadcast(commit)
        s.log.add_commit(commit, signed)


def _opened(signed: Signed) -> Received:
    """Our own durable VIEW-CHANGE, or a NEW-VIEW that we verified before we kept it."""
    message = decode_body(signed.body)
    if isinstance(message, NewView):
        return Received(
            message, signed, new_view=tuple(_opened(entry) for entry in message.view_changes)
        )
    if not isinstance(message, ViewChange):
        raise Misuse("a durable view fact holds neither VIEW-CHANGE nor NEW-VIEW")
    proofs = []
    for proof in message.prepared:
        pre_prepare = decode_body(proof.pre_prepare.body)
        assert isinstance(pre_prepare, PrePrepare)
        proofs.append(VerifiedProof(pre_prepare, ()))
    return Received(message, signed, view_change=VerifiedViewChange((), tuple(proofs)))
