"""The quantities by which campaigns are compared, over runs: medians of both arms, and their ratio.

Each comes from a run's summary, for the phases in which the campaign injects. Both arms have the
same phases, so the comparison is fair. An operation that was never answered counts as longer than
its timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, inf
from typing import Literal, NamedTuple

from testbed.campaign.expect import DegradationExpect
from testbed.campaign.quantities import Bound
from testbed.campaign.warnings import PAIRS_MIN
from testbed.checks.stats import Latency
from testbed.report.pairing import (
    Estimate,
    Known,
    between,
    known,
    median,
    paired_ratio,
    plain,
)
from testbed.report.summary import Figure, Load, PropertyResult, RunRow, RunSummary

__all__ = [
    "BETWEEN_SYSTEMS",
    "OVER_REPLICAS",
    "QUANTITIES",
    "Quantity",
    "admission_ms",
    "bounds_on_ratios",
    "figures",
    "ratio_in_words",
]


class Quantity(NamedTuple):
    """`of` gives the value for a run, or None if the run has none. `of_load`: the same for some of
    its phases, if they can be told apart."""

    name: str
    unit: str
    of: Callable[[RunSummary], Known | None]
    of_load: Callable[[Load], Known | None] | None = None


def _quantity(name: str, unit: str, of_load: Callable[[Load], Known | None]) -> Quantity:
    return Quantity(name, unit, lambda run: of_load(run.load.judged), of_load)


def _quantile(load: Load, name: str) -> Known | None:
    if not load.sent:
        return None
    value: float | None = getattr(load, name)
    return between(float(load.timeout_ms)) if value is None else known(value)


def admission_ms(run: RunSummary) -> Known | None:
    """The median over all devices that asked for admission."""
    return _over_all(run.latency_ms.admission, 0.5)


def _over_all(seen: Latency, wanted: float) -> Known | None:
    """A quantile over all that was asked: what was never answered counts as slower than all else. A
    summary has only a few quantiles, so this one may only be known to lie between two of them.
    """
    if not seen.n + seen.censored:
        return None
    rank = ceil((seen.n + seen.censored) * wanted)
    lo, hi = 0.0, inf
    for share, value in ((0.5, seen.p50), (0.9, seen.p90), (0.99, seen.p99), (1.0, seen.max)):
        if value is not None:
            lo = value if ceil(share * seen.n) <= rank else lo
            hi = min(hi, value) if ceil(share * seen.n) >= rank else hi
    return Known(lo, hi)


QUANTITIES: tuple[Quantity, ...] = (
    _quantity("goodput", "/s", lambda load: known(load.goodput_per_s) if load.sent else None),
    _quantity("p50", "ms", lambda load: _quantile(load, "p50_ms")),
    _quantity("p99", "ms", lambda load: _quantile(load, "p99_ms")),
    _quantity("max", "ms", lambda load: _quantile(load, "max_ms")),
    Quantity("admission", "ms", admission_ms),
    Quantity("consensus", "ms", lambda run: _over_all(run.latency_ms.consensus, 0.5)),
)


def _calm(name: str) -> Callable[[RunSummary], Known | None]:
    """Figures of the phase called baseline, before anything is injected."""
    return lambda run: _quantile(run.load.baseline, name) if run.load.baseline else None


def _recovery(run: RunSummary) -> Known | None:
    if not run.faults:
        return None
    return between(0.0) if run.recovery_ms is None else known(run.recovery_ms)


BETWEEN_SYSTEMS: tuple[Quantity, ...] = (
    Quantity("calm p50", "ms", _calm("p50_ms")),
    Quantity("calm p99", "ms", _calm("p99_ms")),
    Quantity("recovery", "ms", _recovery),
    Quantity(
        "stored",
        "B/record",
        lambda run: known(run.stored_bytes / run.records) if run.records else None,
    ),
)
"""More quantities for results of two systems: latencies before anything is injected, the worst
recovery, and the bytes of a record on all disks together."""


def _quantiles(kind: Literal["admission", "consensus"]) -> tuple[Quantity, ...]:
    """p50 and p99 over the whole run."""

    def of(share: float) -> Callable[[RunSummary], Known | None]:
        return lambda run: _over_all(getattr(run.latency_ms, kind), share)

    return Quantity("p50", "ms", of(0.5)), Quantity("p99", "ms", of(0.99))


OVER_REPLICAS: Mapping[str, tuple[Quantity, ...]] = {
    "admission": _quantiles("admission"),
    "consensus": _quantiles("consensus"),
    "data": QUANTITIES[1:3],
    "goodput": QUANTITIES[:1],
}
"""What is shown against the number of replicas, by panel."""


def figures(counted: Sequence[RunRow]) -> tuple[Figure, ...]:
    """Every quantity over the runs that count."""
    return tuple(_figure(quantity, counted) for quantity in QUANTITIES)


def _figure(quantity: Quantity, counted: Sequence[RunRow]) -> Figure:
    arms: dict[str, dict[int, Known]] = {"baseline": {}, "faults": {}}
    within: list[tuple[Known, Known]] = []
    for row in counted:
        value, load = quantity.of(row.result), row.result.load
        if value is None:
            continue
        arms[row.arm][row.trial] = value
        if quantity.of_load and load.struck and load.baseline and row.arm == "faults":
            base = quantity.of_load(load.baseline)
            if base is not None:
                within.append((base, value))
    pairs = [
        (base, arms["faults"][t]) for t, base in arms["baseline"].items() if t in arms["faults"]
    ]
    against: Literal["baseline", "phase"] | None = None
    if arms["baseline"]:
        against = "baseline"
    elif within:
        against, pairs = "phase", within
    bases = arms["baseline"].values() if against == "baseline" else [base for base, _ in within]
    return Figure(
        name=quantity.name,
        unit=quantity.unit,
        baseline=median(list(bases)),
        faults=median(list(arms["faults"].values())),
        ratio=paired_ratio([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None,
        against=against,
    )


def bounds_on_ratios(
    wanted: DegradationExpect, shown: Sequence[Figure]
) -> Iterator[PropertyResult]:
    """The campaign's bounds on degradation. If there are enough pairs for an interval, the median
    of the paired ratios decides. With fewer pairs there is no verdict."""
    for figure in shown:
        bound: Bound | None = getattr(wanted, figure.name, None)
        if bound is None:
            continue
        ratio = figure.ratio
        held: bool | None = None
        if ratio is None or ratio.value is None:
            found = "cannot be told: no pair of runs"
        elif not ratio.sure:
            found = f"cannot be told from {ratio.n} pairs, {PAIRS_MIN} are the fewest"
        else:
            held = bound.holds(ratio.value)
            if ratio.at_least and held == bound.at_most:
                held = None  # the true ratio is higher
            found = ratio_in_words(ratio)
        yield PropertyResult(
            weight="bound",
            name=f"degradation-{figure.name}",
            held=held,
            runs=ratio.n if ratio else 0,
            detail=f"{found}; {bound.text} wanted",
        )


def ratio_in_words(ratio: Estimate) -> str:
    """The median of paired ratios with its spread."""
    if ratio.value is None:
        return "no pairs"
    value = f"{'at least ' if ratio.at_least else ''}{plain(ratio.value, 3)}x"
    if ratio.n > 1 and ratio.least is not None:
        value += f", pairs {plain(ratio.least, 3)} to {_end(ratio.most)}"
    if ratio.lo is None:
        return f"{value} (n = {ratio.n}: too few for an interval)"
    return f"{value} (95 %: {plain(ratio.lo, 3)} to {_end(ratio.hi)}, n = {ratio.n})"


def _end(value: float | None) -> str:
    return "no upper end" if value is None else plain(value, 3)
