"""The quantities that campaigns are compared by, over runs: medians of both arms, and their ratio.

Each is taken from a run's summary, in the phases in which the campaign injects (in both arms, so
that like is compared with like). What was never answered is known to exceed the timeout, and
counts as that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil, inf
from typing import Literal, NamedTuple

from testbed.campaign.file import DegradationExpect
from testbed.campaign.quantities import Bound
from testbed.report.campaign_summary import Expectation, Figure
from testbed.report.pairing import Estimate, Known, between, known, median, paired_ratio
from testbed.report.summary import Load, Summary

__all__ = ["QUANTITIES", "Quantity", "admission_ms", "expectations", "figures", "told"]


class Quantity(NamedTuple):
    """`of` a run: its value, or None if the run has none. `better` is the good direction."""

    name: str
    unit: str
    of: Callable[[Summary], Known | None]
    of_baseline_phase: Callable[[Summary], Known | None]
    better: Literal["more", "less"] = "less"


def _quantity(
    name: str, unit: str, of_load: Callable[[Load], Known | None], better: Literal["more", "less"]
) -> Quantity:
    def struck(summary: Summary) -> Known | None:
        load = summary.load and (summary.load.struck or summary.load.whole)
        return of_load(load) if load else None

    def baseline(summary: Summary) -> Known | None:
        load = summary.load and summary.load.struck and summary.load.baseline
        return of_load(load) if load else None

    return Quantity(name, unit, struck, baseline, better)


def _quantile(load: Load, name: str) -> Known | None:
    if not load.sent:
        return None
    value: float | None = getattr(load, name)
    return between(float(load.timeout_ms)) if value is None else known(value)


def _maybe(value: float | None) -> Known | None:
    return None if value is None else known(value)


def admission_ms(run: Summary) -> Known | None:
    """The median over all who asked. Who was never admitted took longer than all who were; of
    these a summary has a few quantiles, between which the median then lies."""
    told = run.latency_ms.admission
    if not told.n + told.censored:
        return None
    rank = ceil((told.n + told.censored) / 2)
    lo, hi = 0.0, inf
    for share, value in ((0.5, told.p50), (0.9, told.p90), (0.99, told.p99), (1.0, told.max)):
        if value is not None:
            lo = value if ceil(share * told.n) <= rank else lo
            hi = min(hi, value) if ceil(share * told.n) >= rank else hi
    return Known(lo, hi)


QUANTITIES: tuple[Quantity, ...] = (
    _quantity(
        "goodput", "/s", lambda load: known(load.goodput_per_s) if load.sent else None, "more"
    ),
    _quantity("p50", "ms", lambda load: _quantile(load, "p50_ms"), "less"),
    _quantity("p99", "ms", lambda load: _quantile(load, "p99_ms"), "less"),
    _quantity("max", "ms", lambda load: _quantile(load, "max_ms"), "less"),
    Quantity("admission", "ms", admission_ms, lambda _: None),
    Quantity("consensus", "ms", lambda run: _maybe(run.latency_ms.consensus.p50), lambda _: None),
)


def figures(counted: Sequence[Summary]) -> tuple[Figure, ...]:
    """Every quantity over the runs that count."""
    return tuple(_figure(quantity, counted) for quantity in QUANTITIES)


def _figure(quantity: Quantity, counted: Sequence[Summary]) -> Figure:
    arms: dict[str, dict[int, Known]] = {"baseline": {}, "faults": {}}
    within: list[tuple[Known, Known]] = []
    for run in counted:
        value = quantity.of(run)
        if value is not None:
            arms[run.arm][run.trial] = value
            base = quantity.of_baseline_phase(run)
            if base is not None and run.arm == "faults":
                within.append((base, value))
    pairs = [
        (base, arms["faults"][t]) for t, base in arms["baseline"].items() if t in arms["faults"]
    ]
    against: Literal["baseline", "phase"] | None = None
    if arms["baseline"]:
        against = "baseline"
    elif within:
        against, pairs = "phase", within
    return Figure(
        name=quantity.name,
        unit=quantity.unit,
        baseline=median(list(arms["baseline"].values())),
        faults=median(list(arms["faults"].values())),
        ratio=paired_ratio([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None,
        against=against,
    )


def expectations(wanted: DegradationExpect, shown: Sequence[Figure]) -> Iterator[Expectation]:
    """The campaign's bounds on degradation. The estimate decides; the interval, if the pairs are
    enough for one, is told beside it."""
    for figure in shown:
        bound: Bound | None = getattr(wanted, figure.name, None)
        if bound is None:
            continue
        ratio = figure.ratio
        if ratio is None or ratio.value is None:
            yield Expectation(
                name=f"degradation-{figure.name}",
                held=None,
                runs=0,
                detail=f"no pair of runs to tell it from, {bound.text} wanted",
            )
            continue
        held: bool | None = bound.holds(ratio.value)
        if ratio.at_least and held == bound.at_most:
            held = None  # the true ratio is somewhere above
        yield Expectation(
            name=f"degradation-{figure.name}",
            held=held,
            runs=ratio.n,
            detail=f"{told(ratio)}, {bound.text} wanted",
        )


def told(ratio: Estimate) -> str:
    """A ratio in words."""
    if ratio.value is None:
        return "no pairs"
    value = f"{'at least ' if ratio.at_least else ''}{ratio.value:.3g}x"
    if not ratio.sure:
        return f"{value} (n = {ratio.n}: too few for an interval)"
    upper = "no upper end" if ratio.hi is None else f"{ratio.hi:.3g}"
    return f"{value} (95 %: {ratio.lo:.3g} to {upper}, n = {ratio.n})"
