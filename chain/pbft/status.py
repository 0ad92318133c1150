"""STATUS: one periodic message drives all retransmission (TOCS'02, section 5.2).

Each replica states its progress. A replica that is ahead sends the missing messages: VIEW-CHANGEs
(also of others), the NEW-VIEW, checkpoint proofs, PRE-PREPAREs, votes. Messages that may still be
on their way are not sent again: PRE-PREPAREs and votes only go to a peer that makes no progress, or
that is further behind than the length of the pipeline. The questions of a peer in one interval are
bounded.
"""

from __future__ import annotations

from chain.keys import SIGNATURE_BYTES
from chain.pbft import normal, progress, requests, transfer
from chain.pbft.effects import Refuse, SendBatch, ServeBodies, ServeHeads, SetTimer, Timer
from chain.pbft.inputs import Received
from chain.pbft.log import Slot
from chain.pbft.messages import (
    Batch,
    FetchBatch,
    FetchBodies,
    FetchHeads,
    Proposal,
    Signed,
    StatusMessage,
)
from chain.pbft.pool import OWN_CLIENTS
from chain.pbft.state import Peer, ReplicaState

__all__ = [
    "RESEND_BYTES_MAX",
    "SERVED_BYTES_PER_TICK_MAX",
    "SERVES_PER_TICK_MAX",
    "on_batch",
    "on_fetch_batch",
    "on_fetch_bodies",
    "on_fetch_heads",
    "on_status",
    "on_tick",
]

RESEND_BYTES_MAX = 1_048_576  # of batches and votes, per answer to one STATUS
STUCK_LONG = 2  # after so many STATUS without progress a peer gets all that we hold
# What one peer may fetch in one status interval.
SERVES_PER_TICK_MAX = 256
SERVED_BYTES_PER_TICK_MAX = 4 * 1024 * 1024


def on_tick(s: ReplicaState) -> None:
    """The status interval is over."""
    s.tick += 1
    _notice_a_stop(s)
    for peer in s.peers.values():
        peer.served = peer.served_bytes = 0
    _send_status(s)
    for entry in s.pool.age_later():
        if entry.source == OWN_CLIENTS:
            s.out.append(Refuse(entry.request.id, "refused"))
    requests.forward_waiting(s)
    _fetch_missing(s)
    transfer.on_tick(s, stuck=s.executed == s.tick_executed)
    s.tick_executed = s.executed
    s.out.append(SetTimer(Timer.STATUS, s.consensus.status_interval_us))


def _notice_a_stop(s: ReplicaState) -> None:
    """A tick comes later than the view timeout if this process stood still (SIGSTOP, a suspended
    machine). What has arrived since is not handled yet, so that is no reason to suspect the
    primary. This excuse does not count twice in a row: a replica that is always this slow must be
    able to suspect."""
    late = s.tick_us > 0 and s.now_us - s.tick_us > s.consensus.status_interval_us + s.timeout.us
    if late and not s.tick_late and s.view.active:
        progress.entered(s)
    s.tick_us, s.tick_late = s.now_us, late


def _send_status(s: ReplicaState) -> None:
    view = s.view
    proposed, prepared = [], []
    for slot in s.log.above(s.executed):
        if slot.accepted is not None and slot.accepted.view == view.number:
            proposed.append(slot.seq)
            if slot.prepared is not None and slot.prepared.view == view.number:
                prepared.append(slot.seq)
        elif slot.offer is not None and slot.offer.message.view == view.number:
            proposed.append(slot.seq)
    asking = [] if view.active else s.view_changes.asking_for(view.number)
    s.broadcast(
        StatusMessage(
            s.epoch,
            s.me,
            view.number,
            view.active,
            s.stable.seq,
            s.executed,
            tuple(received.message.sender for received in asking),
            tuple(proposed),
            tuple(prepared),
        )
    )


def _fetch_missing(s: ReplicaState) -> None:
    """Asks everybody for the missing batches that a NEW-VIEW ordered or will order, and for the
    batch of the next block. Anybody may answer, because the digest binds a batch. Answers to STATUS
    bring the other batches, with their PRE-PREPAREs."""
    if s.transfer.running:
        return
    for slot in s.log.above(s.executed):
        wanted = slot.sought or (slot.ordered.digest if slot.ordered is not None else None)
        if wanted is None and slot.committed is not None and slot.seq == s.executed + 1:
            wanted = slot.committed[1]
        if wanted is not None and slot.wants(wanted):
            s.broadcast(FetchBatch(s.epoch, s.me, slot.seq, wanted))


# --- answering ---------------------------------------------------------------------------------


def on_status(s: ReplicaState, received: Received[StatusMessage]) -> None:
    status = received.message
    peer = s.peer(status.sender)
    if 0 <= s.now_us - peer.status_us < s.consensus.status_interval_us // 2:
        return  # too soon after its last one
    peer.status_us = s.now_us
    peer.stuck = peer.stuck + 1 if status.executed == peer.executed else 0
    peer.executed = status.executed
    if status.epoch > s.epoch:
        return
    if status.stable_seq < s.stable.seq and status.stable_seq < s.executed:
        # Also a peer in an older epoch can check this, step by step.
        s.out.append(ServeHeads(status.sender, status.stable_seq + 1))
    if status.epoch == s.epoch:
        _resend_views(s, status)
        lags = s.executed - status.executed > s.consensus.pipeline_window
        if peer.stuck:
            peer.resent = 0
            _resend_checkpoint_votes(s, status)
        if peer.stuck or lags:
            _resend_log(s, status, peer, lags)


def _resend_views(s: ReplicaState, status: StatusMessage) -> None:
    view = s.view
    behind, same = status.view < view.number, status.view == view.number
    if view.active:
        if view.new_view is not None and (behind or (same and not status.active)):
            s.relay(status.sender, view.new_view)
        return
    if not behind and (not same or status.active):
        return
    for sender, received in sorted(s.view_changes.newest.items()):
        if sender != status.sender and (behind or sender not in status.view_changes):
            s.relay(status.sender, received.signed)


def _resend_checkpoint_votes(s: ReplicaState, status: StatusMessage) -> None:
    for seq, signed in s.checkpoint_votes.of(s.me):
        if seq > status.stable_seq:
            s.relay(status.sender, signed)


def _resend_log(s: ReplicaState, status: StatusMessage, peer: Peer, lags: bool) -> None:
    """Sends the messages that the peer needs to go on executing. If it has only just stopped, each
    replica sends its own votes, and the primary the batches. If it stays stuck, or lags, f+1
    replicas in turn send all that they hold: a quorum's COMMITs prove that a batch is committed,
    even if their senders are down now. The COMMITs come before their batch, so the peer takes the
    batch, no matter how far ahead it is.

    A peer that lags and makes progress gets each slot once."""
    if status.executed < s.log.kept_above:
        return  # our votes do not reach that far down: it has to fetch blocks
    everything = (lags or peer.stuck >= STUCK_LONG) and _in_turn(s, status.executed + peer.stuck)
    bytes_left = RESEND_BYTES_MAX
    proposed, prepared = set(status.proposed), set(status.prepared)
    for slot in s.log.above(max(status.executed, peer.resent)):
        digest = slot.accepted.digest if slot.accepted is not None else b""
        if everything and slot.committed is not None:
            digest = slot.committed[1]
            commits = slot.commits.matching(*slot.committed)
            votes = tuple(filter(s.holds, commits))[: s.quorum.strong]
        else:
            votes = _own_votes(s, slot, slot.seq in prepared)
        batch = slot.batches.get(digest)
        if slot.seq in proposed or not (everything or s.view.primary == s.me):
            batch = None
        bytes_left -= sum(len(vote.body) + SIGNATURE_BYTES for vote in votes)
        bytes_left -= batch.size if batch is not None else 0
        if bytes_left < 0 and slot.seq > status.executed + 1:
            return
        for vote in votes:
            s.relay(status.sender, vote)
        if batch is not None:
            _send_batch(s, status.sender, slot, digest)
        peer.resent = slot.seq


def _in_turn(s: ReplicaState, turn: int) -> bool:
    """f+1 members in turn: one of them is honest, and not everybody sends."""
    if not s.voting:
        return False
    return (s.membership.ids.index(s.me) + turn) % s.quorum.n < s.quorum.weak


def _send_batch(
    s: ReplicaState, to: int, slot: Slot, digest: bytes, *, alone: bool = False
) -> None:
    """The batch goes with the PRE-PREPARE that named it, if that is still known: a PRE-PREPARE may
    convict its primary. Sends nothing if we do not have the batch."""
    batch, accepted = slot.batches.get(digest), slot.accepted
    known = accepted is not None and accepted.digest == digest and not alone
    pre_prepare = accepted.signed if accepted is not None and known else None
    if batch is None or not batch.raw:
        if digest in slot.stored:
            s.out.append(SendBatch(to, slot.stored[digest], slot.seq, pre_prepare))
    elif pre_prepare is not None:
        s.relay(to, Signed(pre_prepare.body, pre_prepare.signature, batch.raw))
    else:
        s.send(to, Batch(s.epoch, s.me, batch.raw))


def _own_votes(s: ReplicaState, slot: Slot, peer_prepared: bool) -> tuple[Signed, ...]:
    prepare = None if peer_prepared else slot.prepares.votes.get(s.me)
    votes = (prepare, slot.commits.votes.get(s.me))
    return tuple(vote[2] for vote in votes if vote is not None)


# --- fetches -----------------------------------------------------------------------------------


def _may_serve(s: ReplicaState, replica: int, size: int = 0) -> bool:
    """`size`: bytes that we hold in memory. The host limits what comes from the store."""
    peer = s.peer(replica)
    peer.served += 1
    peer.served_bytes += size
    return peer.served <= SERVES_PER_TICK_MAX and peer.served_bytes <= SERVED_BYTES_PER_TICK_MAX


def on_fetch_batch(s: ReplicaState, received: Received[FetchBatch]) -> None:
    message = received.message
    slot, digest = s.log.get(message.seq), message.digest
    if slot is None or (digest not in slot.batches and digest not in slot.stored):
        return
    batch = slot.batches.get(digest)
    if _may_serve(s, message.sender, len(batch.raw) if batch is not None else 0):
        _send_batch(s, message.sender, slot, digest, alone=message.epoch != s.epoch)


def on_batch(s: ReplicaState, received: Received[Batch]) -> None:
    """Taken only where its digest is wanted."""
    proposal = received.proposal
    assert proposal is not None
    slot = s.log.get(proposal.seq)
    digest = Proposal.digest_of(received.message.proposal)
    if slot is not None and slot.wants(digest):
        normal.take_batch(s, slot, digest, received)


def on_fetch_heads(s: ReplicaState, received: Received[FetchHeads]) -> None:
    message = received.message
    if message.start <= s.executed and _may_serve(s, message.sender):
        s.out.append(ServeHeads(message.sender, message.start))


def on_fetch_bodies(s: ReplicaState, received: Received[FetchBodies]) -> None:
    message = received.message
    if message.start <= message.stop <= s.executed and _may_serve(s, message.sender):
        s.out.append(ServeBodies(message.sender, message.start, message.stop))
