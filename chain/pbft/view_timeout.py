"""How long a replica waits for a primary. The timeout adapts to the speed of the replicas.

A view is quick once it has had a pipeline window of blocks in a row that each took less than half
of the timeout. Then the timeout halves, because the shorter one would have been enough. It doubles,
up to a cap, with each view that fails before it was quick (OSDI'99, 4.5.2). So slow replicas settle
at a timeout in which they work. (In the paper the timeout falls back with the first block, and they
would not work.) The timeout also halves after a checkpoint interval of blocks, or after eight times
its own length, however slow the blocks were. So a primary that is slow on purpose profits from a
doubled timeout only for a limited time: it falls from 16 s to 1 s in four minutes. The price: if
all replicas are that slow, about once in nine timeouts a view fails because a shorter timeout is
tried.

The allowed age of a proposal grows with it (`proposal_check`), as the message delay grows with the
rounds in CometBFT's proposer-based time stamps. Otherwise, if batches take longer on their way than
that age, no proposal could be accepted. `progress` sets the timer.
"""

from __future__ import annotations

from chain.genesis import Consensus

__all__ = ["FALL_TIMEOUTS", "ViewTimeout"]

FALL_TIMEOUTS = 8  # after so long in a view that makes blocks, it is halved in any case


class ViewTimeout:
    """The timeout of one epoch. View 0 counts as quick until it fails."""

    def __init__(self, consensus: Consensus) -> None:
        self._consensus = consensus
        self._attempts = 0  # how often it is doubled
        self._quick = consensus.pipeline_window  # blocks in a row
        self._blocks = 0  # of this view, or since the timeout fell
        self._since_us = 0  # when the view was entered, or the timeout fell
        self._working_since_us: int | None = None

    @property
    def us(self) -> int:
        doubled = self._consensus.view_timeout_us << self._attempts
        return min(doubled, self._consensus.view_timeout_us_max)

    def entered(self, now_us: int) -> None:
        """A view has become active: it is not quick yet."""
        self._quick = self._blocks = 0
        self._since_us = self._working_since_us = now_us

    def working(self, work: bool, now_us: int) -> None:
        """Whether anything waits to be executed: a block is timed from when there was work."""
        if not work:
            self._working_since_us = None
        elif self._working_since_us is None:
            self._working_since_us = now_us

    def executed(self, now_us: int) -> None:
        """A block of the active view."""
        since_us = now_us if self._working_since_us is None else self._working_since_us
        took_us, self._working_since_us = now_us - since_us, now_us
        self._blocks += 1
        self._quick = self._quick + 1 if 0 <= 2 * took_us < self.us else 0
        fast = self._quick >= self._consensus.pipeline_window
        many = self._blocks >= self._consensus.checkpoint_interval
        long = now_us - self._since_us >= FALL_TIMEOUTS * self.us
        if self._attempts and (fast or many or long):
            self._attempts -= 1
            self._quick = self._blocks = 0
            self._since_us = now_us

    def not_quick(self) -> None:
        """This view is not quick, even if its blocks were."""
        self._quick = 0

    def failed(self, active: bool) -> None:
        """The timer of the view has fired. A view that was active and quick does not double it."""
        quick = active and self._quick >= self._consensus.pipeline_window
        if not quick and self.us < self._consensus.view_timeout_us_max:
            self._attempts += 1
