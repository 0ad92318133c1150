"""Fits a calibration to real processes at few replicas, predicts more, and reports its error.

Prices measured in one process leave out TLS, the event loop and the kernel. One number represents
these and is fitted to the CPU time of real replicas: the cost of a write that sends frames to a
party.

A machine's speed changes from minute to minute. So everything is measured in rounds: each round
measures prices and every size again. The fit of a round predicts the measurements of the same
round, and only their ratios are compared between rounds.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from chain.quorum import REPLICAS_MAX, REPLICAS_MIN
from testbed.bench.stage import Say
from testbed.errors import ConfigurationError
from testbed.model.calibration import Calibration, measure_prices
from testbed.model.document import Document, read_document
from testbed.model.loopback import Measured, measure_loopback
from testbed.model.real_core import Lever, Point, Timed, timed
from testbed.report.pairing import Estimate, known, paired_ratio
from testbed.report.pairing import median as estimated
from testbed.simulate.costs import Costs, Price

__all__ = [
    "Prediction",
    "Predictions",
    "Round",
    "SizeComparison",
    "calibration_of",
    "compared",
    "fitted",
    "measure_rounds",
    "predict",
    "read_predictions",
]

_PASSES = 4  # of fitting: it repeats, because which votes are dropped unread depends on the times
_BLOCKS = 24
_OTHERS = ("open", "handle", "execute", "check", "sign")  # on a CPU, beside sending
# Load of others increases CPU time, and must not lead to a price that no machine has.
_SEND_US_MIN, _SEND_US_MAX = 10.0, 400.0

_Time = Annotated[float, Meta(ge=1e-6, le=1e9)]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one round at one size: time to consensus at the proposer with one request at a
    time, and CPU time per block and replica."""

    replicas: Annotated[int, Meta(ge=REPLICAS_MIN, le=REPLICAS_MAX)]
    predicted_ms: _Time
    measured_ms: _Time
    predicted_cpu_us: _Time
    measured_cpu_us: _Time


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """`costs`: measured in this round, and fitted to some of its sizes."""

    costs: Costs
    sizes: Annotated[tuple[Prediction, ...], Meta(min_length=2, max_length=REPLICAS_MAX)]


class Predictions(Document, frozen=True, kw_only=True):
    """All rounds, as a file. `machine` says in words where they were measured; `fitted_to` names
    the sizes that the fit used."""

    schema: str = "testbed.model.predict/2"
    machine: str
    fitted_to: tuple[int, ...]
    blocks: Annotated[int, Meta(ge=1)]  # of each size in each round
    rounds: Annotated[tuple[Round, ...], Meta(min_length=1, max_length=1000)]


class SizeComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One size over all rounds: medians, with intervals from the variation between rounds. `ratio`
    and `cpu_ratio`: predicted to measured, paired by round."""

    replicas: int
    fitted_to: bool
    predicted_ms: Estimate
    measured_ms: Estimate
    ratio: Estimate
    measured_cpu_us: Estimate
    cpu_ratio: Estimate


def read_predictions(path: Path) -> Predictions:
    """Raises ConfigurationError."""
    found = read_document(path, Predictions, "testbed model predict --json")
    named = {tuple(each.replicas for each in one.sizes) for one in found.rounds}
    if len(named) > 1 or any(len({*sizes}) < len(sizes) for sizes in named):
        raise ConfigurationError(f"{path}: each round must have the same sizes, each once")
    if not {*found.fitted_to} <= {*named.pop()} or not found.fitted_to:
        raise ConfigurationError(f"{path}: fitted_to must name sizes that were measured")
    if len({(frozenset(one.costs.kinds), len(one.costs.delays_us)) for one in found.rounds}) > 1:
        raise ConfigurationError(f"{path}: each round must have prices of the same kinds")
    return found


def measure_rounds(
    fit: Sequence[int], others: Iterable[int], *, rounds: int, blocks: int, say: Say
) -> Predictions:
    """Measures real networks of all sizes, `blocks` at each size in each round. Every second round
    goes from the largest to the smallest. Raises LabFault."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    sizes = sorted({*fit, *others})
    found: list[tuple[Costs, dict[int, Measured]]] = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        order = sizes[::-1] if number % 2 else sizes
        prices = measure_prices()
        found.append((prices, {n: measure_loopback(n, blocks, say) for n in order}))
    say("fitting and predicting")
    return Predictions(
        machine=(
            f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, "
            f"load {load:.1f} before"
        ),
        fitted_to=tuple(fit),
        blocks=blocks,
        rounds=tuple(_round(prices, measured, fit, cores) for prices, measured in found),
    )


def _round(prices: Costs, measured: dict[int, Measured], fit: Sequence[int], cores: int) -> Round:
    costs = fitted(prices, [measured[n] for n in fit], cores)
    return Round(
        costs=costs, sizes=tuple(predict(costs, measured[n], cores) for n in sorted(measured))
    )


def fitted(costs: Costs, measured: Sequence[Measured], cores: int) -> Costs:
    """The costs that predict the measured CPU time best, in relative least squares."""
    changed = costs
    for _ in range(_PASSES):
        sends, rest = [], []  # of what was measured
        for each in measured:
            run = _timed(changed, each, cores)
            others_us = sum(run.work_us.get(what, 0.0) for what in _OTHERS)
            sends.append(run.counts["send"] / each.cpu_us)
            rest.append(1 - others_us / each.cpu_us)
        send_us = float(np.dot(sends, rest) / np.dot(sends, sends))
        send_us = min(max(send_us, _SEND_US_MIN), _SEND_US_MAX)
        changed = msgspec.structs.replace(costs, send_us=round(send_us, 1))
    return changed


def predict(costs: Costs, measured: Measured, cores: int) -> Prediction:
    """One size, one request at a time."""
    run = _timed(costs, measured, cores)
    return Prediction(
        replicas=measured.replicas,
        predicted_ms=median(run.proposer_ms),
        measured_ms=measured.ms,
        predicted_cpu_us=sum(run.work_us.values()) - run.work_us.get("sync", 0.0),
        measured_cpu_us=measured.cpu_us,
    )


def _timed(costs: Costs, like: Measured, cores: int) -> Timed:
    """Runs a prediction in which all replicas share the cores of this machine."""
    shared = msgspec.structs.replace(costs, cores=cores, shared=True)
    return timed(Point(replicas=like.replicas, lever=Lever.PRODUCT, costs=shared, blocks=_BLOCKS))


def compared(found: Predictions) -> list[SizeComparison]:
    """The comparison by size."""
    rows = []
    for sizes in zip(*(one.sizes for one in found.rounds), strict=True):
        predicted, measured = (
            [known(each.predicted_ms) for each in sizes],
            [known(each.measured_ms) for each in sizes],
        )
        cpu = [known(each.measured_cpu_us) for each in sizes]
        rows.append(
            SizeComparison(
                replicas=sizes[0].replicas,
                fitted_to=sizes[0].replicas in found.fitted_to,
                predicted_ms=estimated(predicted),
                measured_ms=estimated(measured),
                ratio=paired_ratio(measured, predicted),
                measured_cpu_us=estimated(cpu),
                cpu_ratio=paired_ratio(cpu, [known(each.predicted_cpu_us) for each in sizes]),
            )
        )
    return rows


def calibration_of(found: Predictions) -> Calibration:
    """Each price's median over the rounds."""
    costs = [one.costs for one in found.rounds]
    fit = ", ".join(map(str, found.fitted_to))
    return Calibration(
        machine=f"{found.machine}; {len(costs)} rounds, fitted to loopback at N = {fit}",
        costs=Costs(
            kinds={
                kind: Price(
                    median(each.price(kind).open_us for each in costs),
                    median(each.price(kind).handle_us for each in costs),
                )
                for kind in costs[0].kinds
            },
            check_us=median(each.check_us for each in costs),
            sign_us=median(each.sign_us for each in costs),
            sync_us=median(each.sync_us for each in costs),
            send_us=median(each.send_us for each in costs),
            delays_us=tuple(
                round(median(quantile))
                for quantile in zip(*(each.delays_us for each in costs), strict=False)
            ),
        ),
    )
