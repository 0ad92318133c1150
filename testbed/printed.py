"""Writes our commands in messages so that the reader can type them.

Messages name commands as `testbed restore -i FILE`. This module puts in the path of the program,
the inventory in use, and sudo for commands that need it. `testbed.cli` calls `using` once. Code
that prints a message with a command calls `as_typed`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

__all__ = ["as_typed", "shell_line", "using"]

_NEEDS_ROOT = ("emulate",)
_inventory: str | None = None
_commands = re.compile("(?!)")


def using(arguments: Sequence[str], commands: Iterable[str]) -> None:
    """Sets the command line in use, and the names of commands."""
    global _inventory, _commands  # noqa: PLW0603 - one command line per process
    _inventory = None
    for option, value in pairwise(arguments):
        if option in ("-i", "--inventory"):
            _inventory = value
    words = "|".join(sorted(commands, key=len, reverse=True))
    _commands = re.compile(rf"\b(?:sudo )?testbed ({words})\b(?!-)(?:([^\n;`]*?) -i FILE\b)?")


def program() -> str:
    """This program as the reader starts it: `testbed` if it is on the PATH."""
    path = sys.argv[0]
    on_path = shutil.which("testbed")
    same = on_path is not None and Path(on_path).resolve() == Path(path).resolve()
    return "testbed" if same or Path(path).name != "testbed" else shlex.quote(path)


def as_typed(text: str) -> str:
    """The message, with its commands as they can be typed."""
    sudo = "SUDO_USER" in os.environ
    named = "" if _inventory is None else f" -i {shlex.quote(_inventory)}"

    def typed(match: re.Match[str]) -> str:
        needs_root = sudo or (match[1] in _NEEDS_ROOT and os.geteuid() != 0)
        words = match[1] if match[2] is None else f"{match[1]}{match[2]}{named}"
        return f"{'sudo ' if needs_root else ''}{program()} {words}"

    return _commands.sub(typed, text)


def shell_line(words: Iterable[str]) -> str:
    """The words of a command as a line for a shell, which expands ~ only outside quotes."""
    return " ".join(
        f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)
        for word in words
    )
