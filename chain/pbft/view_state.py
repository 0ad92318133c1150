"""What belongs to one view: its primary, its proposals, what its timer watches.

Built anew whenever a view is entered or asked for (`ReplicaState.enter_view`), so nothing of an
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


class ViewState:
    """`active` is False from our VIEW-CHANGE for `number` until its NEW-VIEW is accepted."""

    __slots__ = (
        "active",
        "checked_at",
        "last_time_us",
        "new_view",
        "new_view_timer_runs",
        "next_seq",
        "number",
        "oldest",
        "overtaken",
        "primary",
        "proposed_us",
        "suspected",
        "timed_from_us",
        "watch",
    )

    def __init__(
        self,
        number: int,
        primary: int,
        *,
        active: bool,
        new_view: Signed | None,
        executed: int,
        time_us: int,
        now_us: int,
    ) -> None:
        self.number = number
        self.primary = primary
        self.active = active
        self.new_view = new_view  # the NEW-VIEW that made it active; view 0 has none
        self.new_view_timer_runs = False  # while we wait, after q VIEW-CHANGEs (`view_change`)
        self.suspected = False  # the primary is to be left
        # Proposals (`normal`).
        self.next_seq = executed + 1  # the next to accept or, as primary, to propose
        self.last_time_us = time_us  # of the newest accepted proposal
        self.checked_at: tuple[int, int, int] | None = None  # when the next offer had to wait
        self.proposed_us = 0  # when this replica, as primary, proposed last
        # The timer (`progress`).
        self.watch: Watch | None = None
        self.timed_from_us = now_us  # requests are timed from here at the earliest
        self.oldest = b""  # the request that is or was last watched
        self.overtaken = 0  # requests executed since then, in full batches
