"""Switches hosts on again if the orchestrator cannot. A host without power cannot undo anything
itself.

The guardian is a process beside the orchestrator, in a session of its own. It waits on a pipe from
the orchestrator. If the pipe ends, the orchestrator has ended (perhaps by kill -9), and the
guardian switches the hosts on. It also does so when its time is over. A line on the pipe means that
the orchestrator has switched them on itself.

If this machine fails, hosts stay off until somebody switches them on (`testbed power on`).
"""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from inventory.load import load_lab
from testbed.errors import LabFault

__all__ = ["Guardian"]

TRIES_MAX = 5


class Guardian:
    """Starts at once. Call `dismiss` when the hosts have power."""

    def __init__(self, inventory: Path, hosts: Sequence[str], after_s: float) -> None:
        argv = [sys.executable, "-m", "testbed.faults.guardian", str(inventory.resolve())]
        self._process = subprocess.Popen(
            [*argv, f"{after_s:.1f}", *hosts],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C here must not end it
        )
        self._dismissed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def dismiss(self) -> None:
        """End the guardian. Repeatable. Raises LabFault if it has died: then check whether the
        hosts have power."""
        if self._dismissed:
            return
        self._dismissed = True
        try:
            self._process.communicate(b"healed\n")
        except OSError as error:
            raise LabFault(f"the guardian of power has ended: {error}") from error


def _switch_on(inventory: Path, hosts: Sequence[str]) -> None:
    """Tries each host several times, because nobody watches."""
    from testbed.boards.power import power_of  # noqa: PLC0415 - kinds must be light to import

    lab = load_lab(inventory)
    left = list(hosts)
    for _ in range(TRIES_MAX):
        for host in list(left):
            try:
                power_of(lab, host, inventory).on()
            except LabFault:
                continue
            left.remove(host)


def main() -> None:
    """`python -m testbed.faults.guardian INVENTORY SECONDS HOST...`"""
    inventory, after_s, *hosts = sys.argv[1:]
    readable, _, _ = select.select([sys.stdin], [], [], float(after_s))
    if not readable or not sys.stdin.readline():
        _switch_on(Path(inventory), hosts)


if __name__ == "__main__":
    main()
