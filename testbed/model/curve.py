"""The curves of time to consensus over N: event model, closed form, and the real core per lever."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from fractions import Fraction
from statistics import fmean

import msgspec

from chain.quorum import REPLICAS_MIN, Quorum
from testbed.model.consensus import Parameters, consensus_times
from testbed.model.event_model import Mean, mean_committed_ms, mean_of
from testbed.model.group import group_risk
from testbed.model.real_core import SMALL_GROUP, Lever, Point, Timed, sweep
from testbed.simulate.costs import Costs

__all__ = [
    "EVENT_WORK_PER_DELAY",
    "GOAL",
    "WORK",
    "Curve",
    "CurveRow",
    "Curves",
    "curves",
    "exponential_us",
    "obstacle",
    "risks",
]

EVENT_WORK_PER_DELAY = 0.0964  # with this the event model has the paper's ratio: fitted
GOAL, GOAL_REPLICAS = 2.0, 100  # the goal: at most so many times the time of N = 4
_QUANTILES = 200


class CurveRow(msgspec.Struct, frozen=True, kw_only=True):
    """The figures at one N. `ratio` is to N = 4. `work_us`: per block and replica, by purpose."""

    replicas: int
    ms: Mean
    ratio: float
    work_us: dict[str, float] = {}


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    rows: tuple[CurveRow, ...]


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """`core`: time to consensus of the real core, by lever. `access`: an access request, from the
    device until 2f+1 replicas have executed it, with the default group and with a small one."""

    schema: str = "testbed.model.curve/1"
    calibration: str
    delay_ms: float
    event_model: Curve
    closed_form: Curve
    core: tuple[Curve, ...]
    access: tuple[Curve, ...]


def exponential_us(mean_ms: float) -> tuple[int, ...]:
    """Exponential delays with this mean as quantiles, for `Costs.delays_us`."""
    steps = [-math.log(1 - (place + 0.5) / _QUANTILES) for place in range(_QUANTILES)]
    return tuple(round(1000 * mean_ms * step) for step in steps)


def curves(
    sizes: Sequence[int],
    levers: Iterable[Lever],
    costs: Costs,
    calibration: str,
    executor: Executor,
    *,
    blocks: int,
    advance: Callable[[Timed], None] = lambda timed: None,
) -> Curves:
    """Computes all curves. N = 4 is added to the sizes if it is missing, because ratios are to
    it."""
    sizes = sorted({REPLICAS_MIN, *sizes})
    points = [
        Point(replicas=n, lever=lever, costs=costs, blocks=blocks)
        for lever in levers
        for n in sizes
    ]
    by_lever: dict[Lever, list[Timed]] = defaultdict(list)
    for each in sweep(points, executor, advance):
        by_lever[each.lever].append(each)
    fitted = Parameters(delay_ms=1.0, work_ms=EVENT_WORK_PER_DELAY)
    return Curves(
        calibration=calibration,
        delay_ms=fmean(costs.delays_us) / 1000,
        event_model=_curve(
            f"event model, work/delay {EVENT_WORK_PER_DELAY}",
            [(n, mean_committed_ms(n, fitted), {}) for n in sizes],
        ),
        closed_form=_curve(
            f"closed form, work/delay {EVENT_WORK_PER_DELAY}",
            [(n, mean_of([consensus_times(n, fitted).total_ms]), {}) for n in sizes],
        ),
        core=tuple(
            _curve(
                lever.value,
                [(each.replicas, mean_of(each.consensus_ms), each.work_us) for each in found],
            )
            for lever, found in by_lever.items()
        ),
        access=tuple(
            _curve(
                name, [(each.replicas, mean_of([each.access_ms]), {}) for each in by_lever[lever]]
            )
            for lever, name in (
                (Lever.PRODUCT, "groups of 2f+1"),
                (Lever.GROUP, f"groups of {SMALL_GROUP[0]}"),
            )
            if lever in by_lever
        ),
    )


def _curve(name: str, found: Sequence[tuple[int, Mean, dict[str, float]]]) -> Curve:
    base = next(mean.value for n, mean, _ in found if n == REPLICAS_MIN)
    return Curve(
        name=name,
        rows=tuple(
            CurveRow(replicas=n, ms=mean, ratio=mean.value / base, work_us=work_us)
            for n, mean, work_us in found
        ),
    )


def risks(replicas: int) -> list[tuple[int, Fraction]]:
    """(liars, how often they get a device admitted, per request) for a small group: with a tenth of
    the replicas as liars, and with as many as the consensus tolerates."""
    members, accepts = SMALL_GROUP
    faulty = Quorum.of(replicas).faulty
    return [
        (liars, group_risk(replicas, liars, members, accepts).false_accept)
        for liars in dict.fromkeys((min(replicas // 10, faulty), faulty))
    ]


def obstacle(curve: Curve) -> str:
    """Says whether the goal is reached, and if not, which work has grown most since N = 4."""
    first, last = curve.rows[0], curve.rows[-1]
    found = f"{curve.name}: N = {last.replicas} takes {last.ratio:.2f} times N = {first.replicas}"
    if last.replicas < GOAL_REPLICAS:
        return f"{found}; the goal is about N = {GOAL_REPLICAS}"
    if last.ratio <= GOAL:
        return f"{found}: the goal of {GOAL} is reached"
    grown = {what: us - first.work_us.get(what, 0.0) for what, us in last.work_us.items()}
    whole = sum(grown.values())
    shares = sorted(grown.items(), key=lambda each: -each[1])[:3]
    names = ", ".join(f"{WORK[what]} {us / whole:.0%}" for what, us in shares)
    return (
        f"{found}, goal {GOAL}. In the way: {whole / 1000:.1f} ms more work per block and "
        f"replica: {names}"
    )


WORK = {
    "open": "decoding",
    "check": "checking signatures",
    "handle": "handling",
    "execute": "executing",
    "sign": "signing",
    "sync": "syncing",
    "send": "sending and receiving frames",
}
