"""Child processes that cannot outlive the orchestrator, even if it ends by kill -9.

Each child leads its own process group. In the group, a tiny shell blocks on a pipe; only the
orchestrator has the other end. When the orchestrator ends, also by kill -9, the kernel closes that
end. The shell reads end-of-file and kills the group: children, grandchildren and itself. This needs
no signal handler, no polling and no root, and also works outside Linux.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from testbed.programs import shell

__all__ = ["Guarded", "is_alive"]

_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR")


def child_environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of a new SSH login, plus `env`. Our own environment may contain secrets."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | dict(env or {})


def is_alive(pid: int) -> bool:
    """Whether this machine has a process of this number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Guarded:
    """A running child, its process group and its guard."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None,
        stdin: int | IO[bytes],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
    ) -> None:
        read_end, self._lifeline = os.pipe()
        self._group_gone = False
        self._ending = threading.RLock()  # two threads may both end it
        try:
            self.process = subprocess.Popen(
                shell("hosts/guard.sh", str(read_end), *argv),
                cwd=cwd,
                env=child_environment(env),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(read_end,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(read_end)

    @property
    def pid(self) -> int:
        """The child's own process id, because the guard replaces itself by the program."""
        return self.process.pid

    def wait(self) -> int:
        """Block until the child ends, end what is left of its group, return its exit code."""
        code = self.process.wait()
        self.kill_group()
        return 128 - code if code < 0 else code

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the child and all its descendants in the group."""
        with self._ending:
            if not self._group_gone:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, number)

    def kill_group(self) -> None:
        """End every process of the group now; repeatable, also by several threads at once.

        Until then the guard keeps the group's number in use, so no other process is hit.
        """
        with self._ending:
            if not self._group_gone:
                self.signal_group(signal.SIGKILL)
                self._group_gone = True
                os.close(self._lifeline)
