"""Filters text for a terminal: text of others is shown but cannot control the terminal.

Records, logs, bundles and inventories hold text that somebody else wrote. Control characters in it
could move the cursor, change the window's title, or forge lines. `guarded` puts a filter before
stdout and stderr, once for all commands. Colours pass, because rich prints them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["guarded", "printable", "unguarded"]

_COLOUR = r"\x1b\[[0-9;]{0,32}m"
# Control characters (except line feed and tab), and characters that change the writing direction.
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
_either = re.compile(f"({_COLOUR})|({_CONTROL})")


def printable(text: str) -> str:
    """The text with each control character spelled out, as \\x1b. Colours stay."""
    return _either.sub(lambda found: found[1] or ascii(found[2])[1:-1], text)


class _Guarded:
    """A text stream that writes `printable` text. Everything else goes to the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(printable(text))

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # Click would bypass the filter if it does not trust an encoding
            raise AttributeError(name)
        return getattr(self.stream, name)


def unguarded(stream: TextIO) -> TextIO:
    """The unfiltered stream, for a live view that moves the cursor itself. Write only `printable`
    text to it."""
    return stream.stream if isinstance(stream, _Guarded) else stream


@contextmanager
def guarded() -> Iterator[None]:
    """Filters stdout and stderr of this process during one command."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Guarded(before[0]), _Guarded(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
