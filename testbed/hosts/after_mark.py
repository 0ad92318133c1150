"""Separates what a remote command prints from what its login prints before it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["GREETING_BYTES_MAX", "AfterMark"]

_MARK = b"\x02m2m\x03\n"
"""`command.sh` and `probe.sh` print it first. The login printed what comes before, so it is
dropped."""

GREETING_BYTES_MAX = 4096
"""How much is kept of the login's own output before the mark."""


class AfterMark:
    """Passes on the output of a command. The login's output before the mark is kept separately."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._before = bytearray()
        self.seen = False

    @property
    def greeting(self) -> bytes:
        return bytes(self._before)

    def take(self, piece: bytes) -> None:
        if self.seen:
            self._sink(piece)
            return
        self._before += piece
        place = self._before.find(_MARK)
        if place >= 0:
            self.seen = True
            rest = bytes(self._before[place + len(_MARK) :])
            del self._before[place:]
            if rest:
                self._sink(rest)
        else:
            del self._before[:-GREETING_BYTES_MAX]
