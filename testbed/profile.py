"""Shapes of load of campaigns and benches: constant, ramp, steps, bursts.

`nodes.device.sends`, which the devices run too, makes intended times from them.
"""

from __future__ import annotations

from nodes.device.sends import Segment

__all__ = ["Span", "bursts", "constant", "ramp", "steps"]

Span = tuple[str, int, int]  # phase name, start_ms, end_ms


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
    """Steps of equal length, each higher than the one before by the same factor."""
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
    """`burst_per_s` for a while, again and again, the first time at once; `per_s` in between."""
    phase, start_ms, end_ms = span
    found: list[Segment] = []
    for begin in range(start_ms, end_ms, every_ms):
        middle = min(begin + for_ms, end_ms)
        found += constant((phase, begin, middle), burst_per_s)
        found += constant((phase, middle, min(begin + every_ms, end_ms)), per_s)
    return tuple(found)
