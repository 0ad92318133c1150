"""Keeps one local unit running: one thread waits for its death, one writes its log.

Both block in the kernel; nothing polls. The policy (backoff, when a unit is given up) is in
`port.py`, because the supervisors on remote hosts are configured with the same figures.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import IO

from testbed.hosts.guard import Guarded
from testbed.hosts.port import (
    BACKOFF_MAX_S,
    BACKOFF_MIN_S,
    LOG_BYTES_MAX,
    QUICK_DEATHS_MAX,
    STABLE_AFTER_S,
    Unit,
    UnitState,
    UnitStatus,
)

__all__ = ["SupervisedUnit"]

_PIECE_BYTES = 64 * 1024

_LAST_WORDS_S = 1.0
"""How long to wait for the output of a dead unit, if a process that left its group still holds it
open."""


class SupervisedUnit:
    """A unit and its present process. Raises OSError if the first start fails."""

    def __init__(self, unit: Unit, cwd: Path, log: Path) -> None:
        self.unit = unit
        self._cwd = cwd
        self._log = log
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._state = UnitState.ACTIVE
        self._restarts = 0
        self._exit_code: int | None = None
        self._life: Guarded | None = None
        self._writer = self._spawn()
        self._thread = threading.Thread(
            target=self._supervise, name=f"unit {unit.name}", daemon=True
        )
        self._thread.start()

    def status(self) -> UnitStatus:
        """The present state, from memory."""
        with self._lock:
            pid = self._life.pid if self._life else None
            return UnitStatus(self._state, pid, self._restarts, self._exit_code)

    def signal(self, number: Signals) -> bool:
        """Send a signal to the main process; False if there is none at the moment."""
        with self._lock:
            if self._life is None:
                return False
            self._life.process.send_signal(number)
            return True

    def ask_to_stop(self) -> None:
        """Keep the unit from being started again, and ask its processes to end."""
        with self._lock:
            self._stopping.set()
            if self._life:
                self._life.signal_group(SIGTERM)
                self._life.signal_group(SIGCONT)  # a stopped one gets the signal when it continues

    def stop(self, timeout_s: float) -> None:
        """Return when no process of the unit is left."""
        self.ask_to_stop()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            with self._lock:
                if self._life:
                    self._life.signal_group(SIGKILL)
            self._thread.join()

    def _spawn(self) -> threading.Thread:
        """Start the process. The thread that writes its log ends when the output does."""
        life = Guarded(
            self.unit.argv,
            cwd=self._cwd,
            env=self.unit.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert life.process.stdout is not None
        writer = threading.Thread(
            target=_write_log,
            args=(life.process.stdout, self._log),
            name=f"log {self.unit.name}",
            daemon=True,
        )
        writer.start()
        self._life = life
        return writer

    def _supervise(self) -> None:
        quick_deaths = 0
        while True:
            assert self._life is not None
            born = time.monotonic()
            code = self._life.wait()
            self._writer.join(_LAST_WORDS_S)
            stable = time.monotonic() - born >= STABLE_AFTER_S
            quick_deaths = 0 if stable else quick_deaths + 1
            again = self.unit.restart and quick_deaths < QUICK_DEATHS_MAX
            with self._lock:
                # Set in one step, so that a reader sees the end and the restart together.
                self._life = None
                self._exit_code = code
                if self._stopping.is_set():
                    self._state = UnitState.INACTIVE
                    return
                if not again:
                    well = code == 0 and not self.unit.restart
                    self._state = UnitState.INACTIVE if well else UnitState.FAILED
                    return
            self._stopping.wait(_backoff_s(quick_deaths))
            with self._lock:
                if self._stopping.is_set():
                    self._state = UnitState.INACTIVE
                    return
                try:
                    self._writer = self._spawn()
                except OSError:
                    self._state = UnitState.FAILED
                    return
                self._restarts += 1


def _backoff_s(quick_deaths: int) -> float:
    return float(min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** max(0, quick_deaths - 1)))


def _write_log(stream: IO[bytes], path: Path) -> None:
    """Copy a unit's output to its log until it ends. When the log is full, keep it as the one older
    file.

    A log that cannot be written (disk full) must not block the unit: its output is then dropped.
    Dropped bytes are counted, in a line before the next output that is written.
    """
    read: Callable[[int], bytes] = stream.read1  # type: ignore[attr-defined]
    older = path.with_name(path.name + ".1")
    dropped_bytes = 0
    with stream:
        while piece := read(_PIECE_BYTES):
            notice = f"{dropped_bytes} bytes of older output were dropped\n".encode()
            try:
                with path.open("ab", buffering=0) as log:
                    log.write(notice + piece if dropped_bytes else piece)
                    size_bytes = log.tell()
                dropped_bytes = 0
                if size_bytes > LOG_BYTES_MAX:
                    dropped_bytes = older.stat().st_size if older.exists() else 0
                    path.replace(older)
            except OSError:
                dropped_bytes += len(piece)
