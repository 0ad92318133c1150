"""The interface through which a session reports its progress.

`screen` shows it to people. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

from testbed.campaign.live import Live
from testbed.manifest import RunEntry

__all__ = ["Progress"]


class Progress(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """One step of work, in a few words."""

    def note(self, text: str) -> None:
        """A line that a person must still see at the end."""

    def begin(self, entry: RunEntry, number: int, count: int, run_ms: int) -> None:
        """The `number`-th of the `count` runs to be made now, counted from 0."""

    def show(self, look: Callable[[], Live]) -> None:
        """Show this run from now on."""

    def hide(self) -> None:
        """The run is over; its verdict is not known yet."""
