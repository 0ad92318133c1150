"""The statistics of judges and reports: quantiles of latencies, bounds on success rates.

The methods follow the rules of campaigns: exact binomial bounds, never "0 %", timeouts kept as
censored observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

__all__ = ["Finite", "Latency", "NonNegative", "Number", "interval95", "latency", "upper95"]


# Numbers in a summary, which may come from a stranger: far beyond them no figure can be drawn. What
# logs can say is within them.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Finite = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles in milliseconds of `n` finished observations; None where there are none.

    `censored` counts operations that were never answered. They are not in the quantiles, so look at
    both.
    """

    n: Number
    p50: NonNegative | None = None
    p90: NonNegative | None = None
    p99: NonNegative | None = None
    max: NonNegative | None = None
    censored: Number = 0


def latency(values_ms: Sequence[float], censored: int = 0) -> Latency:
    """Summarise latencies in milliseconds. Quantiles are observed values, not interpolated."""
    if not values_ms:
        return Latency(n=0, censored=censored)
    p50, p90, p99 = np.quantile(np.asarray(values_ms), [0.5, 0.9, 0.99], method="inverted_cdf")
    return Latency(
        n=len(values_ms),
        p50=round(float(p50), 3),
        p90=round(float(p90), 3),
        p99=round(float(p99), 3),
        max=round(float(max(values_ms)), 3),
        censored=censored,
    )


def upper95(successes: int, trials: int) -> float | None:
    """One-sided 95 % upper bound on a success rate (Clopper-Pearson); None without trials.

    With no success in n trials this is 1 - 0.05^(1/n): 59 trials bound the rate at 5 %. More
    successes than trials (one trial may be recorded many times) count as all of them.
    """
    if trials == 0:
        return None
    return float(f"{_upper(min(successes, trials), trials, 0.05):.6g}")


def interval95(successes: int, trials: int) -> tuple[float, float] | None:
    """Two-sided 95 % interval (Clopper-Pearson); None without trials. See `upper95`."""
    if trials == 0:
        return None
    successes = min(successes, trials)
    low = 1 - _upper(trials - successes, trials, 0.025)
    return low, _upper(successes, trials, 0.025)


def _upper(successes: int, trials: int, alpha: float) -> float:
    """The rate at which at most so many successes have the probability `alpha`."""
    if successes == trials:
        return 1.0
    if successes == 0:
        return float(1 - alpha ** (1 / trials))
    # It takes half a second to import, and the usual case is the one above.
    from scipy.special import betaincinv  # noqa: PLC0415

    return float(betaincinv(successes + 1, trials - successes, 1 - alpha))
