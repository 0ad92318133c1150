"""Restart: from durable facts back to a replica that never contradicts its own votes.

The entry into a view is durable before a replica votes in that view, and a certificate before its
COMMIT. PRE-PREPAREs and PREPAREs may be lost. So a replica that restarts in a view does not vote in
it again, and asks for the next one. Until f+1 others ask too (or the primary does), it follows
without a vote. Blocks that were not synced are executed again when peers send the votes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, get_args

import msgspec

from chain.errors import Misuse
from chain.pbft import checkpoint, membership, new_view, progress, status, view_change
from chain.pbft.effects import Broadcast, Durable, FactKind
from chain.pbft.inputs import Received
from chain.pbft.log import Accepted, BatchContent
from chain.pbft.messages import (
    CheckpointProof,
    NewView,
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
        return  # never in a view of this epoch
    s.enter_view(fact.view, active=fact.active)
    s.may_have_voted = fact.active
    if not fact.active and fact.message is not None:
        s.timeout.not_quick()
        s.view_changes.add(_view_change(fact.message))


def _restore_proposal(s: ReplicaState, signed: Signed) -> None:
    message = _kept(signed, PrePrepare)
    if message.epoch != s.epoch or not s.log.admits(message.seq):
        return
    s.may_have_voted |= message.view == s.view.number  # older versions did not keep view 0
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


def _restore_prepared(s: ReplicaState, proof: PreparedProof) -> None:
    message = _kept(proof.pre_prepare, PrePrepare)
    if message.epoch == s.epoch and s.log.admits(message.seq):
        slot = s.log.slot(message.seq)
        slot.prepared = Accepted(message.view, message.digest, proof.pre_prepare)
        slot.prepared_proof = proof


def resume(s: ReplicaState) -> None:
    """First after the start: leaves a view in which we may have voted, repeats messages that may
    not have arrived, and asks others for their progress."""
    interval = s.consensus.checkpoint_interval
    if s.executed > s.stable.seq and s.executed % interval == 0:
        checkpoint.vote(s)
    if not s.view.active:
        s.out.append(Broadcast(s.view_changes.newest[s.me].signed))
    elif s.may_have_voted and s.voting:
        view_change.start(s, s.view.number + 1)
    else:
        s.persist_view()
    if s.view.active:
        progress.entered(s)
    s.tick_executed = s.executed
    status.on_tick(s)


def _view_change(signed: Signed) -> Received[ViewChange]:
    """Our own."""
    message = _kept(signed, ViewChange)
    certificates = [_kept(proof.pre_prepare, PrePrepare) for proof in message.prepared]
    return Received(message, signed, prepared=tuple(certificates))


def _kept(signed: Signed, kind: type[_M]) -> _M:
    message = decode_body(signed.body)
    if not isinstance(message, kind):
        raise Misuse(f"a durable fact holds {type(message).__name__} for {kind.__name__}")
    return message
