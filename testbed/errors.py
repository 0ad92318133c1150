"""Errors of the orchestrator, each with the exit code that the command line ends with."""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "LabFault",
    "LockedError",
    "RefusedError",
    "RestoreIncompleteError",
    "TestbedError",
    "without_fixes",
]


class TestbedError(Exception):
    """A failure that the user can fix: the message says what is wrong, where, and how to fix it."""

    exit_code = 3


class RefusedError(TestbedError):
    """The system under test refused a request: an admission, an order."""

    exit_code = 1


class ConfigurationError(TestbedError):
    """Usage, inventory or campaign mistakes: nothing was touched."""

    exit_code = 2


class LabFault(TestbedError):
    """Hardware, network or a host failed. This says nothing about the property under test."""

    exit_code = 3


class LockedError(TestbedError):
    """Another owner holds the lab."""

    exit_code = 5


class RestoreIncompleteError(TestbedError):
    """Some hosts could not be brought back to their clean state; the message lists them."""

    exit_code = 6


def without_fixes(error: BaseException) -> str:
    """The message without its fixes, for a file that others read: fixes name addresses and
    logins."""
    lines = [line for line in str(error).splitlines() if not line.startswith("  fix: ")]
    return "\n".join(lines) or type(error).__name__
