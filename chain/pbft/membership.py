"""Membership change: which replicas decide which blocks.

A block that changes the membership is decided by the old epoch, and so is everything up to the
next checkpoint. When the old epoch's quorum has made that checkpoint stable, the new epoch begins
above it, in view 0: the old quorum's signatures certify the new set. Votes of the old epoch on
higher sequence numbers are void, whatever they say: nobody executes above the boundary before
the epoch has changed. Waiting for *stable*, not only executed, leaves nobody behind without a
proof to catch up with.
"""

from __future__ import annotations

from chain.genesis import Membership
from chain.pbft import progress, requests
from chain.pbft.log import Log
from chain.pbft.messages import encode
from chain.pbft.state import ReplicaState, ViewFact

__all__ = ["at_checkpoint", "decided", "switch"]


def decided(s: ReplicaState, following: Membership) -> None:
    """A block that was just executed or installed names the next epoch's members."""
    if following.epoch == s.epoch + 1:
        s.pending = following
        s.boundary = s.checkpoint_at_or_above(s.executed)


def at_checkpoint(s: ReplicaState) -> None:
    """We stand at a checkpoint, or one was proven: is it the boundary, and stable?

    One that the next epoch proved above the boundary says so too.
    """
    if s.pending is not None and s.executed == s.boundary <= s.stable.seq and not s.halted:
        switch(s)
        s.persist("view", 0, 0, encode(ViewFact(s.epoch, 0, True, None)))
        s.observe("epoch", s.boundary)
        progress.entered(s)


def switch(s: ReplicaState) -> None:
    """Into the pending epoch: a new log, view 0, and dropped requests wait again."""
    assert s.pending is not None
    for slot in s.log.above(s.executed):
        for batch in slot.batches.values():
            requests.wait_again(s, slot.seq, batch.requests)
    s.membership, s.pending = s.pending, None
    s.quorum = s.membership.quorum
    s.voting = s.membership.spki(s.me) is not None
    s.log = Log(s.quorum.strong, s.consensus.log_window)
    s.log.raise_low(s.stable.seq, max(s.executed, s.stable.seq - s.log.window))
    s.view, s.active, s.primary = 0, True, s.membership.primary(0)
    s.new_view = None
    s.view_changes = {}
    s.attempts = s.blocks = 0
    s.quick = s.consensus.pipeline_window
    s.suspected = ""
    s.view_timer_runs = False
    s.next_seq = s.executed + 1
    s.last_time_us = s.time_us
    s.waited = None
    s.checkpoint_votes = {}
    s.heads = {}
    s.watch = None
