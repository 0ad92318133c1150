"""Programs that run on hosts: shell and Python files, beside the module that uses them.

This module makes the argument lists that run such a file's text on a host. Nothing is installed
there for that. Ruff and mypy check the Python files, shellcheck the shell files
(tests/testbed/test_programs.py).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["python", "shell", "source"]


@cache
def source(path: str) -> str:
    """The text of a program; `path` is relative to `testbed/`, as "care/lease.sh"."""
    return (Path(__file__).parent / path).read_text()


def shell(path: str, *arguments: str) -> list[str]:
    """Runs a shell program (POSIX sh) on a host."""
    return ["sh", "-c", source(path), path, *arguments]


def python(interpreter: str, path: str, *arguments: str) -> list[str]:
    """Runs a Python program on a host. PYTHON* variables of the login do not reach it."""
    return [interpreter, "-I", "-c", source(path), *arguments]
