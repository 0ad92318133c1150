"""The one place where any exception over a stranger's bytes becomes a refusal.

All code that reads strangers' bytes runs inside `with refusing()`. Libraries raise more kinds of
exceptions than their documentation lists, and one message must not end a process. Faults of this
machine (a full disk, a damaged file) are not refusals: they pass.
"""

from __future__ import annotations

import sqlite3
from types import TracebackType

from chain.errors import PeerFault

__all__ = ["UNREADABLE", "LocalFault", "refusing"]

UNREADABLE = "unreadable"
"""The code of a fault that no reader of ours has named."""


class LocalFault(Exception):
    """This machine's fault: the disk is full or a file is damaged. The message says what to do."""


_PASSES = (PeerFault, LocalFault, sqlite3.Error, OSError, MemoryError)


class refusing:  # noqa: N801 - used as a statement, like contextlib.suppress
    """Turns any exception of the body into PeerFault, except faults of this machine. It is a
    class because every frame passes through it: a generator costs four times as much."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, _PASSES):
            raise PeerFault(UNREADABLE, f"{type(error).__name__}: {error}"[:200]) from error
