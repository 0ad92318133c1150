"""How far each host's clock is from this machine's, and how sure that is.

Asked over the management connection, as NTP asks: the host's time between our sending and our
hearing. Of several questions the one with the shortest round trip counts; the truth lies within
half of that round trip (`bound_ms`), wherever in it the answer was made. So every latency between
two hosts has a bound, whatever synchronises them. Who asks during a run: `testbed.care.host_watch`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from testbed.errors import LabFault
from testbed.hosts.port import Dialogue

__all__ = ["SAMPLES", "ClockReading", "read_clock"]

SAMPLES = 16
_ANSWER_S = 5.0


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
    """The best of several questions to `testbed.care.conditions.open_facts`. Raises LabFault."""
    best: tuple[int, int, int] | None = None
    for _ in range(samples):
        sent_ns = time.time_ns()
        began_ns = time.monotonic_ns()
        answer = dialogue.ask("clock", timeout_s=_ANSWER_S)
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
