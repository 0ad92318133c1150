"""Finds and runs the system's own tools, even if a user's PATH has no sbin."""

from __future__ import annotations

import os
import shutil
import subprocess

from testbed.errors import LabFault

__all__ = ["TOOL_PATH", "attempt", "demand", "tool"]

TOOL_PATH = "/usr/local/sbin:/usr/sbin:/sbin:" + os.environ.get("PATH", "/usr/bin:/bin")


def tool(name: str) -> str:
    """The path of a tool. `preflight` has already named the package of a missing one."""
    found = shutil.which(name, path=TOOL_PATH)
    if found is None:
        raise LabFault(f"no {name} on this machine")
    return found


def attempt(name: str, *args: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a tool to its end. A failure is ignored."""
    return subprocess.run(
        [tool(name), *args], input=given, capture_output=True, text=True, check=False
    )


def demand(name: str, *args: str, given: str = "") -> str:
    """Run a tool that must succeed. Returns what it printed."""
    done = attempt(name, *args, given=given)
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise LabFault(f"emulated lab: {' '.join((name, *args))}: {said}")
    return done.stdout
