"""Checkpoints: votes on head hashes, watermarks, forgetting old facts (OSDI'99, section 4.3).

q matching votes *prove* a checkpoint; then the log window moves. A proven checkpoint is *ours* once
we have executed up to it. Both are durable, because votes above a proven checkpoint must be found
again on restart. Only a checkpoint that is ours is served to others, and only facts below it are
forgotten.
"""

from __future__ import annotations

from chain.pbft import membership, progress, requests
from chain.pbft.effects import Forget, Sync
from chain.pbft.inputs import Executed, Installed, Received
from chain.pbft.log import Slot
from chain.pbft.messages import Checkpoint, CheckpointProof, Signed, encode
from chain.pbft.state import ReplicaState
from chain.pbft.votes import Equivocation

__all__ = ["on_checkpoint", "on_executed", "on_installed", "prove", "vote"]


def on_executed(s: ReplicaState, item: Executed) -> None:
    """The answer to Execute: the chain has grown by one block."""
    assert s.busy, "Executed without an Execute"
    assert item.seq == s.executed + 1, "Executed without an Execute"
    slot = s.log.slot(item.seq)
    assert slot.committed is not None
    batch = slot.batches[slot.committed[1]]
    for request in batch.requests:
        s.pool.proposed.pop(request.id, None)
        s.pool.drop(request.id)
    full = s.consensus.batch_requests_max, s.consensus.batch_bytes_max // 2
    if len(batch.requests) >= full[0] or len(batch.raw) >= full[1]:
        progress.full_batch(s, len(batch.requests))
    if s.view.active:
        s.timeout.executed(s.now_us)
    _close_slot(s, slot)
    _advance_chain(s, item)


def on_installed(s: ReplicaState, item: Installed) -> None:
    """The answer to Install: fetched blocks are in the ledger now."""
    assert s.busy, "Installed without an Install"
    assert item.seq > s.executed, "Installed without an Install"
    for seq in range(s.executed + 1, item.seq + 1):
        slot = s.log.get(seq)
        if slot is not None:
            _close_slot(s, slot)
    _advance_chain(s, item)


def _close_slot(s: ReplicaState, slot: Slot) -> None:
    """The block of this slot exists: requests of other proposals for its number wait again."""
    slot.offer = None
    requests.withdraw(s, slot)
    slot.release()


def _advance_chain(s: ReplicaState, item: Executed | Installed) -> None:
    s.busy = False
    s.executed, s.head, s.time_us = item.seq, item.head, item.time_us
    s.view.last_time_us = max(s.view.last_time_us, item.time_us)
    if item.membership is not None:
        membership.decided(s, item.membership)
    if item.seq % s.consensus.checkpoint_interval == 0:
        _at_checkpoint(s)


def _at_checkpoint(s: ReplicaState) -> None:
    if s.executed > s.stable.seq:
        vote(s)
    elif s.executed == s.stable.seq and _agrees(s, s.head):
        _forget_below(s)
    membership.at_checkpoint(s)


def vote(s: ReplicaState) -> None:
    """Sends a CHECKPOINT for our head, once its block is durable. The proof moves everybody's
    window, and votes below it no longer count. So if power failed everywhere and no honest replica
    had kept the block, nobody could go on."""
    s.heads[s.executed] = s.head
    if not s.voting:
        return
    s.out.append(Sync())
    message = Checkpoint(s.epoch, s.me, s.executed, s.head)
    _count(s, message, s.broadcast(message))


def on_checkpoint(s: ReplicaState, received: Received[Checkpoint]) -> None:
    message = received.message
    if message.seq > s.stable.seq and message.seq % s.consensus.checkpoint_interval == 0:
        _count(s, message, received.signed)


def _count(s: ReplicaState, vote: Checkpoint, signed: Signed) -> None:
    count = s.checkpoint_votes.add(vote, signed)
    if isinstance(count, Equivocation):
        s.accuse_equivocation(count)
    elif count >= s.quorum.strong:
        votes = s.checkpoint_votes.matching(vote.seq, vote.head)[: s.quorum.strong]
        prove(s, CheckpointProof(vote.seq, vote.head, votes))


def prove(s: ReplicaState, proof: CheckpointProof) -> None:
    """A quorum vouches for a checkpoint above the one we know: the window moves (4.3).

    Slots down to the previous stable checkpoint stay, to serve those who are a little behind.
    """
    if proof.seq <= s.stable.seq:
        return
    kept_above = max(s.stable.seq, proof.seq - s.log.window)
    s.stable = proof
    # The blocks that we fetch may lack requests of proposals that are about to be forgotten.
    for slot in s.log.above(s.executed):
        if slot.seq <= kept_above:
            requests.withdraw(s, slot)
    s.log.raise_low(proof.seq, kept_above)
    s.checkpoint_votes.forget(proof.seq)
    own = s.head if s.executed == proof.seq else s.heads.get(proof.seq)
    s.heads = {seq: head for seq, head in s.heads.items() if seq > proof.seq}
    if own is not None and not _agrees(s, own):
        return
    if s.executed >= proof.seq:
        _forget_below(s)
    else:
        _persist_stable(s)
    membership.at_checkpoint(s)


def _persist_stable(s: ReplicaState) -> None:
    s.persist("stable", 0, s.stable.seq, encode(s.stable))


def _agrees(s: ReplicaState, own: bytes) -> bool:
    if own == s.stable.head:
        return True
    # More than f faulty replicas, or our own state is broken: never go on from here.
    s.halted = True
    s.observe("diverged", s.stable.seq)
    return False


def _forget_below(s: ReplicaState) -> None:
    """The checkpoint is proven and executed: facts below the previous one may be forgotten."""
    _persist_stable(s)
    s.out.append(Forget(s.log.kept_above))
    s.observe("checkpoint", s.stable.seq)
