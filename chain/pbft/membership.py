"""Membership change: which replicas decide which blocks.

The old epoch decides the block that changes the membership, and all blocks up to the next
checkpoint. When the old epoch's quorum has made that checkpoint stable, the new epoch begins above
it, in view 0: the old quorum's signatures certify the new set. Votes of the old epoch on higher
sequence numbers are void: nobody executes above the boundary before the epoch has changed. The
checkpoint must be *stable*, not only executed, so that nobody is left behind without a proof to
catch up with.
"""

from __future__ import annotations

from chain.genesis import Membership
from chain.pbft import progress, requests
from chain.pbft.state import ReplicaState

__all__ = ["at_checkpoint", "decided", "switch"]


def decided(s: ReplicaState, following: Membership) -> None:
    """A block that was just executed or installed names the next epoch's members."""
    if following.epoch == s.epoch + 1:
        s.pending = following
        s.boundary = s.checkpoint_at_or_above(s.executed)


def at_checkpoint(s: ReplicaState) -> None:
    """Called at each checkpoint, executed or proven. Switches the epoch if it is the boundary and
    stable. A checkpoint that the next epoch proved above the boundary shows that too."""
    if s.pending is not None and s.executed == s.boundary <= s.stable.seq and not s.halted:
        switch(s, s.pending)
        s.persist_view()
        s.observe("epoch", s.boundary)
        progress.entered(s)


def switch(s: ReplicaState, following: Membership) -> None:
    """Enters the next epoch. Requests whose proposals were not executed wait again."""
    for slot in s.log.above(s.executed):
        requests.withdraw(s, slot)
    s.pending = None
    s.enter_epoch(following)
    s.log.raise_low(s.stable.seq, max(s.executed, s.stable.seq - s.log.window))
