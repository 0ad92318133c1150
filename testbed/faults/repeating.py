"""The work of a fault that goes on while the fault lasts, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from testbed.hosts.port import OutcomeUnknown, Unreachable

__all__ = ["Repeating"]


class Repeating:
    """From `start` to `end`, does `work` again and again.

    If a host does not answer, `work` is tried again after the next pause. Any other error ends the
    thread, and `check` raises it.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name = name
        self._work = work
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, pause_s: Callable[[], float]) -> None:
        """Begins. `pause_s` gives the seconds before each `work`, the first one too."""
        self._thread = threading.Thread(
            target=self._run, args=(pause_s,), name=self._name, daemon=True
        )
        self._thread.start()

    def _run(self, pause_s: Callable[[], float]) -> None:
        try:
            while not self._over.wait(pause_s()):
                with suppress(Unreachable, OutcomeUnknown):
                    self._work()
        except Exception as error:
            self._error = error

    def check(self) -> None:
        """Raises the error that ended the work, if there was one."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """No work begins after this. Waits for the work under way. Repeatable."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
