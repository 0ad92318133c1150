"""How long a replica waits for a primary: fitted to how fast the replicas are (OSDI'99, 4.5.2).

The timeout doubles, up to a cap, with each view that fails before it has shown itself quick. It
halves after a pipeline window of blocks in a row that each took less than half of it: the shorter
one would have done. So replicas with too little processor settle at a timeout in which they work,
instead of falling back, with the first block, to one in which they do not. It also halves after a
checkpoint interval of blocks however long they took: a primary that is slow on purpose gets no
longer than that out of a timeout that was doubled for others.

How old a proposal may be when it is judged grows with it (`judge`), as the message delay grows with
the rounds in CometBFT's proposer-based time stamps: otherwise nothing could be accepted where a
batch takes longer on its way than that, whatever the timeout.
"""

from __future__ import annotations

from chain.pbft.state import ReplicaState

__all__ = ["entered", "executed", "failed", "too_slow", "working"]


def entered(s: ReplicaState) -> None:
    """A view has become active: it has yet to show what it can do."""
    s.quick = s.blocks = 0
    s.working_since_us = s.now_us


def working(s: ReplicaState, work: bool) -> None:
    """Whether anything waits to be executed: a block is timed from when there was work."""
    if not work:
        s.working_since_us = None
    elif s.working_since_us is None:
        s.working_since_us = s.now_us


def executed(s: ReplicaState) -> None:
    """A block of the active view."""
    since_us = s.now_us if s.working_since_us is None else s.working_since_us
    took_us, s.working_since_us = s.now_us - since_us, s.now_us
    s.blocks += 1
    s.quick = s.quick + 1 if 0 <= 2 * took_us < s.timeout_us else 0
    window, interval = s.consensus.pipeline_window, s.consensus.checkpoint_interval
    if s.attempts and (s.quick >= window or s.blocks >= interval):
        s.attempts -= 1
        s.quick = s.blocks = 0


def too_slow(s: ReplicaState) -> None:
    """A proposal was too old when it got here: this view is not as quick as its blocks say."""
    s.quick = 0


def failed(s: ReplicaState) -> None:
    """The timer of the view has fired."""
    doubtless = s.active and s.quick >= s.consensus.pipeline_window
    if not doubtless and s.timeout_us < s.consensus.view_timeout_us_max:
        s.attempts += 1
