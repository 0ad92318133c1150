"""The offset of each host's clock from this machine's, and its error bound.

We ask over the management connection, as NTP does. Of several questions the one with the shortest
round trip counts: the error is at most half of that round trip (`bound_ms`). So every latency
between two hosts has a known bound, with any kind of clock synchronisation.
`testbed.care.host_watch` asks during a run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

from inventory.model import Lab
from testbed.errors import LabFault
from testbed.hosts.port import Dialogue

__all__ = ["SYNC_COMMAND", "ClockReading", "clocks_apart", "read_clock", "require_near"]

SAMPLES = 16
SYNC_COMMAND = "sudo timedatectl set-ntp true"
"""Starts time synchronisation on a host."""

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
    """Asks several questions through `testbed.care.conditions.open_facts`; returns the best answer.
    Raises LabFault."""
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


def clocks_apart(lab: Lab, clocks: Mapping[str, ClockReading]) -> dict[str, str]:
    """Replicas whose clocks are certainly further apart than the consensus tolerates, and how far.
    Each offset is known only to half of a round trip, so pairs that are not returned may be too far
    apart as well.
    """
    limit_ms = lab.chain.precision_ms
    replicas = [name for name in lab.replicas() if name in clocks]
    wrong = {}
    for name, other in permutations(replicas, 2):
        apart_ms = abs(clocks[name].offset_ms - clocks[other].offset_ms)
        if apart_ms - clocks[name].bound_ms - clocks[other].bound_ms > limit_ms:
            wrong[name] = (
                f"{apart_ms:.0f} ms from {other}'s; "
                f"replicas tolerate {limit_ms:g} ms (chain.precision)"
            )
    return wrong


def require_near(lab: Lab, clocks: Mapping[str, ClockReading]) -> None:
    """Raises LabFault before a run whose replicas would reject each other's times."""
    if wrong := clocks_apart(lab, clocks):
        lines = [f"the clock of {name} is {says}" for name, says in wrong.items()]
        fix = f"on each: {SYNC_COMMAND}; then testbed doctor -i FILE"
        raise LabFault("\n".join([*lines, f"  fix: {fix}"]))
