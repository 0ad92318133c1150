"""Time to consensus, message by message: one FIFO server per replica, until 2f+1 have committed.

The same two parameters as `consensus` (its closed form): the mean delay of a message and the mean
work at its receiver, both exponential. Nothing is left out of the three phases: votes overlap, and
a COMMIT waits behind late PREPAREs. The code that runs on the boards is in `real_core`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from random import Random
from statistics import fmean, stdev

import msgspec

from chain.quorum import Quorum
from testbed.model.consensus import Parameters

__all__ = ["Mean", "committed_ms", "mean_committed_ms", "mean_of"]

_MESSAGES_WANTED = 200_000  # in all runs of one size together: longer runs are fewer
_RUNS_MIN = 12
_RUNS_MAX = 4000
_Z_95 = 1.96


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over `runs` with its 95 % interval."""

    value: float
    lo: float
    hi: float
    runs: int


class _Kind(Enum):
    PRE_PREPARE = 1
    PREPARE = 2
    COMMIT = 3


def mean_of(values: Iterable[float]) -> Mean:
    """Uses the normal distribution, so it needs many values. The interval of one value is that
    value."""
    found = list(values)
    value = fmean(found)
    half = _Z_95 * stdev(found) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return Mean(value=value, lo=value - half, hi=value + half, runs=len(found))


def mean_committed_ms(replicas: int, parameters: Parameters) -> Mean:
    """`committed_ms` over as many runs as `_MESSAGES_WANTED` allows."""
    runs = min(_RUNS_MAX, max(_RUNS_MIN, _MESSAGES_WANTED // (2 * replicas * replicas)))
    random = Random(f"event model 1 {replicas}")  # noqa: S311 - must repeat
    return mean_of(committed_ms(replicas, parameters, random) for _ in range(runs))


def committed_ms(replicas: int, parameters: Parameters, random: Random) -> float:
    """One consensus: from the first PRE-PREPARE until 2f+1 replicas have committed."""
    return _Consensus(replicas, parameters, random).play()


class _Consensus:
    """Replica 0 is the primary. Its PRE-PREPARE counts as its PREPARE, and a replica's own votes
    count at once."""

    def __init__(self, replicas: int, parameters: Parameters, random: Random) -> None:
        self._replicas = replicas
        self._strong = Quorum.of(replicas).strong
        self._delay_ms, self._work_ms = parameters.delay_ms, parameters.work_ms
        self._random = random
        self._order = count()  # decides between equal times
        self._heap: list[tuple[float, int, int, _Kind, bool]] = []
        self._free_ms = [0.0] * replicas  # when each server has processed its queue
        self._prepares = [0] * replicas
        self._commits = [0] * replicas
        self._accepted = [False] * replicas
        self._prepared = [False] * replicas
        self._committed = [False] * replicas
        self._done = 0  # how many replicas have committed

    def play(self) -> float:
        self._accepted[0] = True
        self._broadcast(0.0, 0, _Kind.PRE_PREPARE)
        while True:
            now_ms, _, at, kind, worked_off = heappop(self._heap)
            if not worked_off:
                work_ms = self._drawn(self._work_ms)
                self._free_ms[at] = max(now_ms, self._free_ms[at]) + work_ms
                self._push(self._free_ms[at], at, kind, worked_off=True)
                continue
            self._handle(now_ms, at, kind)
            if self._done >= self._strong:
                return now_ms

    def _handle(self, now_ms: float, at: int, kind: _Kind) -> None:
        match kind:
            case _Kind.PRE_PREPARE:
                self._accepted[at] = True
                self._prepares[at] += 1
                self._broadcast(now_ms, at, _Kind.PREPARE)
            case _Kind.PREPARE:
                self._prepares[at] += 1
            case _Kind.COMMIT:
                self._commits[at] += 1
        ready = self._accepted[at] and self._prepares[at] >= self._strong - 1
        if ready and not self._prepared[at]:
            self._prepared[at] = True
            self._commits[at] += 1
            self._broadcast(now_ms, at, _Kind.COMMIT)
        decided = self._prepared[at] and self._commits[at] >= self._strong
        if decided and not self._committed[at]:
            self._committed[at] = True
            self._done += 1

    def _broadcast(self, now_ms: float, sender: int, kind: _Kind) -> None:
        for to in range(self._replicas):
            if to != sender:
                self._push(now_ms + self._drawn(self._delay_ms), to, kind, worked_off=False)

    def _push(self, at_ms: float, to: int, kind: _Kind, *, worked_off: bool) -> None:
        heappush(self._heap, (at_ms, next(self._order), to, kind, worked_off))

    def _drawn(self, mean_ms: float) -> float:
        return self._random.expovariate(1 / mean_ms) if mean_ms else 0.0
