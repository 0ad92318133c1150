"""Figures that the device benches share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

import msgspec

__all__ = ["Spread"]


class Spread(msgspec.Struct, frozen=True):
    """The spread of a sample, in its unit. With fewer than ten values, `p90` is the largest."""

    n: int
    min: float
    p50: float
    p90: float
    max: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> Spread:
        """Needs at least one value."""
        p90 = quantiles(sample, n=10)[-1] if len(sample) >= 10 else max(sample)
        return cls(
            len(sample),
            *(round(each, 2) for each in (min(sample), median(sample), p90, max(sample))),
        )
