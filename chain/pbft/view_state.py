"""The state of one view: its primary, its proposals, the watch of its timer.

Built again whenever a view is entered or asked for (`ReplicaState.enter_view`), so nothing of an
older view is left over. VIEW-CHANGEs, votes and the length of the timeout outlive a view.
"""

from __future__ import annotations

import msgspec

from chain.pbft.messages import Signed

__all__ = ["BlockWatch", "RequestWatch", "ViewState", "Watch"]


class RequestWatch(msgspec.Struct, frozen=True):
    """The timer waits for this request to be executed."""

    request: bytes


class BlockWatch(msgspec.Struct, frozen=True):
    """The timer waits for this block. `idle`: a heartbeat; any work takes its place."""

    seq: int
    idle: bool


Watch = RequestWatch | BlockWatch


class ViewState(msgspec.Struct, eq=False, kw_only=True):
    """`active` is False from our VIEW-CHANGE for `number` until its NEW-VIEW is accepted."""

    number: int
    primary: int
    active: bool
    new_view: Signed | None  # the NEW-VIEW that made it active; view 0 has none
    new_view_timer_runs: bool = False  # while we wait, after q VIEW-CHANGEs (`view_change`)
    suspected: bool = False  # the primary is faulty or gone: the view is to be left
    sought_arrived: bool = False  # a batch that our NEW-VIEW waits for is here (`Slot.sought`)

    # Proposals (`normal`).
    next_seq: int  # the next to accept or, as primary, to propose
    last_time_us: int  # of the newest accepted proposal
    checked_at: tuple[int, int, int] | None = None  # when the next offer had to wait
    proposed_us: int = 0  # when this replica, as primary, proposed last

    # The timer (`progress`).
    watch: Watch | None = None
    timed_from_us: int  # requests are timed from here at the earliest
    oldest: bytes = b""  # the request that is or was last watched
    overtaken: int = 0  # requests executed since then, in full batches
