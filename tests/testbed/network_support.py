"""A network namespace for tests of programs that change link rules."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

__all__ = ["AS_NOBODY", "NEEDS_ROOT", "in_a_network"]

AS_NOBODY = ("setpriv", "--reuid=65534", "--clear-groups")
"""Before a command: it runs as a login for which sudo needs a password."""

NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "nft", "tc"))),
    reason="needs root, unshare, setpriv, nft and tc",
)


def in_a_network(*commands: str) -> str:
    """What shell commands print in a network namespace of their own."""
    argv = ["unshare", "--net", "--uts", "sh", "-ec", "\n".join(commands)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
