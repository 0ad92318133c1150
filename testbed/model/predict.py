"""Fits a calibration to real processes at few replicas, predicts more, and says how wrong it was.

Prices measured in one process leave out what an event loop costs and that caches are cold between
other processes. Two numbers are fitted to the CPU time of real replicas: a factor on the prices of
Python (signatures are native code), and the cost of a frame that is sent. CPU time depends little
on what else runs on the machine; times to consensus depend on it much.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median as middle

import msgspec
import numpy as np
from scipy.optimize import lsq_linear

from testbed.model.loopback import Measured
from testbed.model.real_core import Lever, Point, Timed, timed
from testbed.report.pairing import Estimate, known, median
from testbed.simulate.costs import Costs, Price

__all__ = ["Prediction", "Predictions", "fitted", "on_loopback", "predict"]

_ROUNDS = 3  # of fitting: what is dropped unread depends on when it comes
_BLOCKS = 24
_PYTHON = ("open", "handle", "execute")
_NATIVE = ("check", "sign")
# CPU time that others' load inflates must not turn into prices that no machine has.
_FACTOR_MIN, _FACTOR_MAX = 1.0, 4.0
_SEND_US_MIN, _SEND_US_MAX = 10.0, 400.0


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Times to consensus at the proposer, one request at a time. `error_*`: predicted / measured
    - 1, by the measured median and by the ends of its 95 % interval (None: too few blocks). `load`:
    the machine's one-minute load average after the measurement."""

    replicas: int
    fitted_to: bool
    predicted_ms: float
    measured_ms: Estimate
    error: float
    error_lo: float | None
    error_hi: float | None
    predicted_cpu_us: float
    measured_cpu_us: float
    load: float


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """As a file, for figures."""

    schema: str = "testbed.model.predict/1"
    rows: list[Prediction]


def on_loopback(costs: Costs, cores: int) -> Costs:
    """All replicas share the cores of this machine."""
    return msgspec.structs.replace(costs, cores=cores, shared=True)


def fitted(costs: Costs, measured: Sequence[Measured], cores: int) -> Costs:
    """The costs whose CPU time is nearest to what was measured, in relative least squares."""
    changed, factor = costs, 1.0
    for _ in range(_ROUNDS):
        runs = [_timed(changed, each, cores) for each in measured]
        rows, rest = [], []
        for run, each in zip(runs, measured, strict=True):
            python_us = sum(run.work_us[what] for what in _PYTHON) / factor
            rows.append([python_us / each.cpu_us, run.counts["send"] / each.cpu_us])
            rest.append(1 - sum(run.work_us[what] for what in _NATIVE) / each.cpu_us)
        bounds = ([_FACTOR_MIN, _SEND_US_MIN], [_FACTOR_MAX, _SEND_US_MAX])
        factor, send_us = map(float, lsq_linear(np.array(rows), np.array(rest), bounds).x)
        changed = _scaled(costs, factor, send_us)
    return changed


def _scaled(costs: Costs, factor: float, send_us: float) -> Costs:
    kinds = {
        kind: Price(round(price.open_us * factor, 1), round(price.handle_us * factor, 1))
        for kind, price in costs.kinds.items()
    }
    return msgspec.structs.replace(
        costs,
        kinds=kinds,
        send_us=round(send_us, 1),
    )


def _timed(costs: Costs, like: Measured, cores: int) -> Timed:
    return timed(
        Point(
            replicas=like.replicas,
            lever=Lever.PRODUCT,
            costs=on_loopback(costs, cores),
            blocks=_BLOCKS,
        )
    )


def predict(costs: Costs, measured: Measured, cores: int, load: float, fits: bool) -> Prediction:
    """One size, one request at a time."""
    run = _timed(costs, measured, cores)
    predicted_ms = middle(run.proposer_ms)
    found = median([known(ms) for ms in measured.proposer_ms])
    assert found.value is not None
    cpu_us = sum(run.work_us.values()) - run.work_us.get("sync", 0.0)
    return Prediction(
        replicas=measured.replicas,
        fitted_to=fits,
        predicted_ms=predicted_ms,
        measured_ms=found,
        error=predicted_ms / found.value - 1,
        error_lo=predicted_ms / found.hi - 1 if found.hi else None,
        error_hi=predicted_ms / found.lo - 1 if found.lo else None,
        predicted_cpu_us=cpu_us,
        measured_cpu_us=measured.cpu_us,
        load=load,
    )
