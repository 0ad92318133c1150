"""How the processes of this folder end in trouble: one line on stderr, and an exit code."""

from __future__ import annotations

import contextlib
import sys
from typing import NoReturn

__all__ = ["EXIT_BAD_CONFIG", "EXIT_TROUBLE", "Trouble", "fail", "say"]

EXIT_BAD_CONFIG = 2
EXIT_TROUBLE = 3  # a fault outside: a port that is taken, a file that is damaged


class Trouble(Exception):
    """Something outside this process prevents its work; the message says what to fix."""


def say(message: str) -> None:
    """One line on stderr, if stderr takes it: a log may stand on a disk that is full."""
    with contextlib.suppress(OSError):
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


def fail(code: int, message: str) -> NoReturn:
    """One line on stderr, then the end."""
    say(message)
    raise SystemExit(code)
