"""`testbed ...` called in this process: it saves the second that a process of its own imports."""

from __future__ import annotations

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout

from testbed import cli

__all__ = ["run_testbed"]


def run_testbed(*words: str) -> subprocess.CompletedProcess[str]:
    """Its exit code and what it printed, as `subprocess.run` returns them. One at a time."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
