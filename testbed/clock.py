"""How far each host's clock is from this machine's, and how sure that is.

Asked over the management connection, as NTP asks: the host's time between our sending and our
hearing. Of several questions the one with the shortest round trip counts; the truth lies within
half of that round trip (`bound_ms`), wherever in it the answer was made. So every latency between
two hosts has a bound, whatever synchronises them. Written to raw/clock.jsonl: before, during and
after a run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from testbed.errors import LabFault
from testbed.fleet import HOSTS_AT_ONCE_MAX
from testbed.hosts.port import Dialogue, Host, HostFault

__all__ = ["EVERY_S", "SAMPLES", "ClockReading", "ClockWatch", "open_clock", "read_clock"]

SAMPLES = 16
EVERY_S = 5.0
"""Between two readings of a host during a run."""

_ANSWER_S = 5.0

When = Literal["before", "during", "after"]

# Answers each line with wall and monotonic nanoseconds.
_PROGRAM = """
import sys, time
for line in sys.stdin:
    sys.stdout.write("%d %d\\n" % (time.time_ns(), time.monotonic_ns()))
    sys.stdout.flush()
"""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """`offset_ms` is host minus this machine; the true one is within `bound_ms` of it.

    `wall_minus_monotonic_ns` is the host's wall clock minus its monotonic one: if it changes, the
    wall clock was stepped or slewed.
    """

    offset_ms: float
    bound_ms: float
    wall_minus_monotonic_ns: int


def read_clock(dialogue: Dialogue, samples: int = SAMPLES) -> ClockReading:
    """The best of several questions. Raises LabFault."""
    best: tuple[int, int, int] | None = None
    for _ in range(samples):
        sent_ns = time.time_ns()
        began_ns = time.monotonic_ns()
        answer = dialogue.ask("", timeout_s=_ANSWER_S)
        trip_ns = time.monotonic_ns() - began_ns
        try:
            wall_ns, monotonic_ns = (int(word) for word in answer.split())
        except ValueError as error:
            raise LabFault(f"clock: strange answer {answer[:100]!r}") from error
        if best is None or trip_ns < best[0]:
            best = (trip_ns, wall_ns - (sent_ns + trip_ns // 2), wall_ns - monotonic_ns)
    assert best is not None, "at least one sample"
    trip_ns, offset_ns, difference_ns = best
    return ClockReading(offset_ns / 1e6, trip_ns / 2e6, difference_ns)


class ClockWatch:
    """Reads every host's clock before, during and after a run, and writes each reading down.

    A host that does not answer (it may be powered off on purpose) is written down as such and
    asked again next time.
    """

    def __init__(
        self,
        hosts: Mapping[str, Host],
        python: Mapping[str, str],
        write: Callable[..., None],
        every_s: float = EVERY_S,
    ) -> None:
        self._hosts = hosts
        self._python = python
        self._write = write
        self._every_s = every_s
        self._dialogues: dict[str, Dialogue] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._during, name="clock", daemon=True)

    def start(self) -> dict[str, ClockReading]:
        """Read all once ("before"), then again and again until `stop`."""
        readings = self._read_all("before")
        self._thread.start()
        return readings

    def stop(self) -> None:
        """The last readings ("after")."""
        if self._thread.ident is None:
            return
        self._stop.set()
        self._thread.join()
        self._read_all("after")
        for dialogue in self._dialogues.values():
            dialogue.close()
        self._dialogues.clear()

    def _during(self) -> None:
        while not self._stop.wait(self._every_s):
            self._read_all("during")

    def _read_all(self, when: When) -> dict[str, ClockReading]:
        with ThreadPoolExecutor(HOSTS_AT_ONCE_MAX, "clock") as pool:
            readings = list(pool.map(lambda name: self._read(name, when), self._hosts))
        return {n: r for n, r in zip(self._hosts, readings, strict=True) if r is not None}

    def _read(self, name: str, when: When) -> ClockReading | None:
        fields: dict[str, Any] = {"when": when, "host": name}
        try:
            if name not in self._dialogues:
                self._dialogues[name] = open_clock(self._hosts[name], self._python[name])
            reading = read_clock(self._dialogues[name])
        except HostFault as fault:
            if (dialogue := self._dialogues.pop(name, None)) is not None:
                with suppress(OSError):
                    dialogue.close()
            self._write(**fields, problem=fault.problem)
            return None
        self._write(
            **fields,
            offset_ms=round(reading.offset_ms, 4),
            bound_ms=round(reading.bound_ms, 4),
            wall_minus_monotonic_ns=reading.wall_minus_monotonic_ns,
        )
        return reading


def open_clock(host: Host, python: str) -> Dialogue:
    """A host's clock, to be asked with `read_clock`."""
    return host.dialogue([python, "-c", _PROGRAM])
