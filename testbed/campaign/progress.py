"""The interface through which a session reports its progress.

`screen` shows it to people. Nothing here decides anything.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from testbed.campaign.schedule import Schedule
from testbed.campaign.watch import Watch
from testbed.manifest import RunEntry

__all__ = ["Progress", "Source"]


class Source(Protocol):
    """Where a run stands: the runner."""

    phase: str

    @property
    def elapsed_ms(self) -> float: ...


class Progress(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, text: str) -> None:
        """One step of work, in a few words."""

    def begin(self, entry: RunEntry, number: int, count: int, run_ms: int) -> None:
        """The `number`-th of the `count` runs to be made now, counted from 0."""

    def show(self, watch: Watch, runner: Source, schedule: Schedule) -> None:
        """Follow a run from now on."""

    def hide(self) -> None:
        """The run is over."""
