"""When a device sends: a profile and a seed, expanded into intended times by one pure function.

The planner of the load and the sender draw the same times. So a plan contains no times: a schedule
and a device's plan (`workload`) hold a `Draw`. Open-loop: the times are fixed before anything is
sent. The shapes that campaigns offer are in `testbed.profile`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

__all__ = ["SENDS_MAX", "Draw", "Gaps", "Profile", "Segment", "intended_ms"]

Gaps = Literal["poisson", "uniform"]

SENDS_MAX = 20_000_000
"""Limit for one draw, and for all devices in one run; their times take about 1 GB of memory."""
_AT_MS_MAX = 366 * 86_400_000
_PER_S_MAX = 1e9


# Plain dataclasses: a schedule is read by one library, a device's plan by another.
@dataclass(frozen=True)
class Segment:
    """A stretch of time in which the rate changes evenly from one value to another."""

    phase: str
    start_ms: int
    end_ms: int
    from_per_s: float
    to_per_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.start_ms < self.end_ms <= _AT_MS_MAX:
            raise ValueError(f"it ends at {self.end_ms} ms and starts at {self.start_ms} ms")
        for per_s in (self.from_per_s, self.to_per_s):
            if not 0 <= per_s <= _PER_S_MAX:  # nor NaN
                raise ValueError(f"its rate is {per_s}/s")

    @property
    def sends(self) -> float:
        """How many are expected."""
        return (self.from_per_s + self.to_per_s) / 2 * (self.end_ms - self.start_ms) / 1000


@dataclass(frozen=True)
class Profile:
    """Segments in order of time. `poisson`: exponential gaps; `uniform`: equal gaps from a random
    first one."""

    gaps: Gaps
    segments: tuple[Segment, ...]

    @property
    def sends(self) -> float:
        return sum(segment.sends for segment in self.segments)

    def share(self, of: int) -> Profile:
        """The profile of one of `of` senders, which together have the whole rate."""
        segments = tuple(
            Segment(
                each.phase, each.start_ms, each.end_ms, each.from_per_s / of, each.to_per_s / of
            )
            for each in self.segments
        )
        return Profile(self.gaps, segments)


@dataclass(frozen=True)
class Draw:
    """Sends of a device: `profile` expanded with the random stream `seed`. `sha256` is over the
    times in ms, in order, one to a line."""

    profile: Profile
    seed: str
    sha256: str

    @classmethod
    def of(cls, profile: Profile, seed: str) -> Draw:
        return cls(profile, seed, _hash(_drawn(profile, seed)))

    @property
    def sends_ms(self) -> dict[str, tuple[int, ...]]:
        """The times by phase, increasing. Raises ValueError if they are too many, or if they have
        another hash."""
        if not self.profile.sends <= SENDS_MAX:
            raise ValueError(f"{self.profile.sends:g} sends of {self.seed}: at most {SENDS_MAX:,}")
        drawn = _drawn(self.profile, self.seed)
        if _hash(drawn) != self.sha256:
            raise ValueError(
                f"sends of {self.seed}: this version draws other times than the one that made the "
                "schedule; run it with that version, or make a new one with testbed plan"
            )
        return drawn


@lru_cache(maxsize=64)
def _drawn(profile: Profile, seed: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {segment.phase: [] for segment in profile.segments}
    for phase, at_ms in intended_ms(profile, Random(seed)):  # noqa: S311 - repeatable, not secret
        found[phase].append(at_ms)
    return {phase: tuple(times) for phase, times in found.items()}


def _hash(sends_ms: dict[str, tuple[int, ...]]) -> str:
    text = "".join(f"{at}\n" for times in sends_ms.values() for at in times)
    return hashlib.sha256(text.encode()).hexdigest()


def intended_ms(profile: Profile, random: Random) -> Iterator[tuple[str, int]]:
    """(phase, ms) of each send, in order. Equal profile and seed give equal times.

    Gaps are drawn in units of expected sends; a segment turns them into time. So a gap that a
    segment does not fill goes on in the next one.
    """
    gap = random.random() if profile.gaps == "uniform" else random.expovariate(1.0)
    for segment in profile.segments:
        begin = segment.from_per_s / 1000
        slope = (segment.to_per_s - segment.from_per_s) / 1000 / (segment.end_ms - segment.start_ms)
        area, done = segment.sends, 0.0
        while done + gap < area:
            done += gap
            at_ms = segment.start_ms + int(_time_ms(begin, slope, done))
            yield segment.phase, min(at_ms, segment.end_ms - 1)
            gap = 1.0 if profile.gaps == "uniform" else random.expovariate(1.0)
        gap -= area - done


def _time_ms(begin: float, slope: float, sends: float) -> float:
    """When so many sends are expected, at a rate of `begin` + `slope` t per ms."""
    if not slope:
        return sends / begin
    return 2 * sends / (begin + math.sqrt(max(0.0, begin * begin + 2 * slope * sends)))
