"""Medians and ratios over runs, with exact distribution-free 95 % intervals; nothing is dropped.

A value may be censored: an operation that was never answered took longer than its timeout, a fault
never recovered from. Such a value is only known to be between two bounds (`Known`), and so is every
ratio with it. Medians and intervals are taken over all values: their lower ends from the lower
bounds, their upper ends from the upper ones. So they are right for any true values.

- One sample, and ratios of pairs: median, interval from order statistics (the sign test's).
- Two samples that are not paired: median of all cross ratios, interval from the Mann-Whitney
  distribution (Hodges and Lehmann's estimate on the logarithms).

A 95 % interval needs at least six values (or pairs), or four against four.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb, inf, isinf, sqrt
from typing import NamedTuple

import msgspec

__all__ = [
    "Estimate",
    "Known",
    "between",
    "estimate_in_words",
    "known",
    "median",
    "ms_in_words",
    "paired_ratio",
    "plain",
    "unpaired_ratio",
    "value_in_words",
]

EXACT_MAX = 40  # values of both samples together; above it the normal approximation is used
_LEAST = 1e-9  # a smaller value counts as 0: nothing measures it, and no figure can show it
_Z_975 = 1.959963984540054


class Known(NamedTuple):
    """A value that may be known only by bounds: `lo` <= value <= `hi`."""

    lo: float
    hi: float

    @property
    def censored(self) -> bool:
        return self.lo != self.hi


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A median, or a median ratio, of `n` values (or pairs), `censored` of them.

    `at_least`: `value` is only a lower bound, because too many values are censored. `lo` and `hi`
    are the ends of its 95 % interval: both None if there are too few values for one, `hi` alone
    None if it has no upper end. `least` and `most` are the ends of all values: their spread.
    """

    n: int
    value: float | None = None
    lo: float | None = None
    hi: float | None = None
    least: float | None = None
    most: float | None = None
    at_least: bool = False
    censored: int = 0

    @property
    def sure(self) -> bool:
        """Whether there is an interval."""
        return self.lo is not None


def known(value: float) -> Known:
    return Known(value, value)


def between(lo: float) -> Known:
    """A censored value: between `lo` and infinity."""
    return Known(lo, inf)


def median(values: Sequence[Known]) -> Estimate:
    return _estimate(values, len(values), _sign_rank(len(values)))


def paired_ratio(base: Sequence[Known], other: Sequence[Known]) -> Estimate:
    """other / base, pair by pair. A pair whose base is 0 is censored: any ratio is possible."""
    ratios = [_ratio(b, o) for b, o in zip(base, other, strict=True)]
    return _estimate(ratios, len(ratios), _sign_rank(len(ratios)))


def unpaired_ratio(base: Sequence[Known], other: Sequence[Known]) -> Estimate:
    """other / base of two samples. `n` is the size of the smaller one."""
    ratios = [_ratio(b, o) for b in base for o in other]
    rank = _mann_whitney_rank(len(base), len(other))
    return _estimate(ratios, min(len(base), len(other)), rank)


def _ratio(base: Known, other: Known) -> Known:
    lo = other.lo / base.hi if _LEAST <= base.hi < inf else 0.0
    hi = other.hi / base.lo if base.lo >= _LEAST and other.hi < inf else inf
    return Known(lo, hi)


def _estimate(values: Sequence[Known], n: int, rank: int) -> Estimate:
    """`rank` of the interval's ends, counted from 1 and from both sides; 0: there is none."""
    censored = sum(each.censored for each in values)
    if not values:
        return Estimate(n=0)
    lows = sorted(each.lo for each in values)
    highs = sorted(each.hi for each in values)
    low, high = _middle(lows), _middle(highs)
    upper = highs[-rank] if rank else inf
    return Estimate(
        n=n,
        value=_rounded(low),
        at_least=high > low,
        lo=_rounded(lows[rank - 1]) if rank else None,
        hi=None if isinf(upper) else _rounded(upper),
        least=_rounded(lows[0]),
        most=None if isinf(highs[-1]) else _rounded(highs[-1]),
        censored=censored,
    )


def _middle(ordered: Sequence[float]) -> float:
    """Median; between two values their geometric mean, which suits ratios and latencies."""
    one, two = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return two if one == two or isinf(two) else sqrt(one * two)  # 0 and infinity have no mean


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") if value >= _LEAST else 0.0


@cache
def _sign_rank(n: int) -> int:
    """The largest r with P(fewer than r of n fair coins show heads) <= 2.5 %."""
    below, rank, limit, ways = 0, 0, 2**n, 1
    while 40 * (below + ways) <= limit:
        below += ways
        ways = ways * (n - rank) // (rank + 1)
        rank += 1
    return rank


@cache
def _mann_whitney_rank(n: int, m: int) -> int:
    """The largest r with P(U < r) <= 2.5 %, U the Mann-Whitney statistic of samples n and m."""
    if n + m > EXACT_MAX:
        return max(0, int(n * m / 2 - _Z_975 * sqrt(n * m * (n + m + 1) / 12)))
    below, rank, limit = 0, 0, comb(n + m, n)
    ways = _ways(n, m)
    while rank < len(ways) and 40 * (below + ways[rank]) <= limit:
        below += ways[rank]
        rank += 1
    return rank


def _ways(n: int, m: int) -> list[int]:
    """In how many orders of both samples U is 0, 1, ... (coefficients of the Gaussian binomial)."""
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            ways[u] -= ways[u - m - i]
        for u in range(i, n * m + 1):
            ways[u] += ways[u - i]
    return ways


def estimate_in_words(each: Estimate) -> str:
    """Value and interval; "–" if there is none."""
    value = value_in_words(each)
    if each.lo is None:
        return value
    return f"{value} [{plain(each.lo)}, {'∞' if each.hi is None else plain(each.hi)}]"


def value_in_words(each: Estimate) -> str:
    """Without the interval."""
    return "–" if each.value is None else f"{'≥ ' if each.at_least else ''}{plain(each.value)}"


def ms_in_words(value: float | None, digits: int = 1) -> str:
    """Milliseconds with so many digits after the point; "–" if there is no value."""
    return "–" if value is None else f"{value:,.{digits}f}"


def plain(value: float, digits: int = 4) -> str:
    """So many digits; from 1,000 on the whole number, never a power of ten."""
    short = f"{value:.{digits}g}"
    return f"{value:,.0f}" if abs(float(short)) >= 1000 else short
