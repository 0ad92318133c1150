"""When load is sent: a profile and a seed, expanded into intended times by one pure function.

Campaigns and benches share it. Open-loop: the times are fixed before anything is sent, whatever the
system does then. A schedule stores profile and seed, not each send. What sends at these times is in
`nodes.device` and `testbed.bench`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "Gaps",
    "Profile",
    "Segment",
    "Span",
    "bursts",
    "constant",
    "intended_ms",
    "ramp",
    "steps",
]

Gaps = Literal["poisson", "uniform"]
Span = tuple[str, int, int]  # phase name, start_ms, end_ms


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Segment(_Model):
    """A stretch of time in which the rate changes evenly from one value to another."""

    phase: str
    start_ms: int = Field(ge=0)
    end_ms: int
    from_per_s: float = Field(ge=0)
    to_per_s: float = Field(ge=0)

    @model_validator(mode="after")
    def _takes_time(self) -> Self:
        if self.end_ms <= self.start_ms:
            raise ValueError(f"it ends at {self.end_ms} ms and starts at {self.start_ms} ms")
        return self

    @property
    def sends(self) -> float:
        """How many are expected."""
        return (self.from_per_s + self.to_per_s) / 2 * (self.end_ms - self.start_ms) / 1000


class Profile(_Model):
    """Segments in order of time. `poisson`: exponential gaps; `uniform`: equal gaps from a random
    first one."""

    gaps: Gaps
    segments: tuple[Segment, ...]

    @property
    def sends(self) -> float:
        return sum(segment.sends for segment in self.segments)

    def share(self, of: int) -> Profile:
        """What one of so many senders does: together they have the whole rate."""
        segments = tuple(
            segment.model_copy(
                update={
                    "from_per_s": segment.from_per_s / of,
                    "to_per_s": segment.to_per_s / of,
                }
            )
            for segment in self.segments
        )
        return Profile(gaps=self.gaps, segments=segments)


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


# --- shapes --------------------------------------------------------------------------------------


def constant(span: Span, per_s: float) -> tuple[Segment, ...]:
    return ramp(span, per_s, per_s)


def ramp(span: Span, per_s: float, to_per_s: float) -> tuple[Segment, ...]:
    phase, start_ms, end_ms = span
    if end_ms <= start_ms:
        return ()
    segment = Segment(
        phase=phase, start_ms=start_ms, end_ms=end_ms, from_per_s=per_s, to_per_s=to_per_s
    )
    return (segment,)


def steps(span: Span, per_s: float, to_per_s: float, count: int) -> tuple[Segment, ...]:
    """Equally long, each by the same factor above the one before."""
    phase, start_ms, end_ms = span
    found: list[Segment] = []
    for number in range(count):
        rate = per_s * (to_per_s / per_s) ** (number / max(count - 1, 1))
        begin, end = (start_ms + (end_ms - start_ms) * n // count for n in (number, number + 1))
        found += constant((phase, begin, end), rate)
    return tuple(found)


def bursts(
    span: Span, per_s: float, burst_per_s: float, *, for_ms: int, every_ms: int
) -> tuple[Segment, ...]:
    """`burst_per_s` for a while again and again, the first time at once; else `per_s`."""
    phase, start_ms, end_ms = span
    found: list[Segment] = []
    for begin in range(start_ms, end_ms, every_ms):
        middle = min(begin + for_ms, end_ms)
        found += constant((phase, begin, middle), burst_per_s)
        found += constant((phase, middle, min(begin + every_ms, end_ms)), per_s)
    return tuple(found)
