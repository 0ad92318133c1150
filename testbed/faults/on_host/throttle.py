"""Runs on a host: lets a process run only for a part of the time.   PID PERCENT

It stops and continues the process again and again. However this program ends, the process
continues, except after kill -9.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__: list[str] = []

PERIOD_S = 0.05


def throttle(pid: int, percent: int, over: threading.Event) -> None:
    """Runs until `over`, or until the process has ended."""
    run_s = PERIOD_S * percent / 100
    try:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(PERIOD_S - run_s)
            os.kill(pid, signal.SIGCONT)
            over.wait(run_s)
    except ProcessLookupError:
        over.wait()  # the unit must stay, because it shows that the fault is on


if __name__ == "__main__":
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    throttle(int(sys.argv[1]), int(sys.argv[2]), ended)
