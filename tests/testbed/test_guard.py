"""Guarded children: what only their owner sees. What hosts do with them: `test_hosts`."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from testbed.hosts.guard import Guarded

INSIDE_S = 0.2  # for which the second thread is given the time to go all the way


def test_two_threads_that_end_a_child_at_once_close_its_lifeline_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed twice, the number may be somebody else's file by then."""
    null = subprocess.DEVNULL
    child = Guarded(["sleep", "600"], cwd=tmp_path, env=None, stdin=null, stdout=null, stderr=null)
    other = threading.Thread(target=child.kill_group)
    killpg = os.killpg

    def other_comes_in_between(group: int, number: int) -> None:
        killpg(group, number)
        if other.ident is None:
            other.start()
            other.join(INSIDE_S)

    monkeypatch.setattr(os, "killpg", other_comes_in_between)
    child.kill_group()
    other.join()
    assert child.wait() == 128 + signal.SIGKILL
