"""Fits a calibration to real processes at few replicas, predicts more, and says how wrong it was.

Prices measured in one process leave out TLS, the event loop and the kernel. One number stands for
them and is fitted to the CPU time of real replicas: the cost of a write that sends frames to a
party. CPU time depends little on what else runs on the machine; times to consensus depend on it
much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from testbed.errors import ConfigurationError
from testbed.model.loopback import Measured
from testbed.model.real_core import Lever, Point, Timed, timed
from testbed.report.pairing import Estimate
from testbed.simulate.costs import Costs

__all__ = ["Prediction", "Predictions", "fitted", "on_loopback", "predict", "read_predictions"]

_ROUNDS = 4  # of fitting: what is dropped unread depends on when it comes
_BLOCKS = 24
_OTHERS = ("open", "handle", "execute", "check", "sign")  # on a CPU, beside sending
# CPU time that others' load inflates must not turn into a price that no machine has.
_SEND_US_MIN, _SEND_US_MAX = 10.0, 400.0


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Times to consensus at the proposer, one request at a time. `error_*`: predicted / measured
    - 1, by the measured median and by the ends of its 95 % interval (None: too few blocks). `load`:
    the machine's one-minute load average before the measurement."""

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

    @property
    def measured(self) -> Measured:
        return Measured(
            replicas=self.replicas,
            ms=self.measured_ms,
            cpu_us=self.measured_cpu_us,
            load=self.load,
        )


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """As a file, for figures."""

    schema: str = "testbed.model.predict/1"
    rows: list[Prediction]


def read_predictions(path: Path) -> list[Prediction]:
    """Raises ConfigurationError."""
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=Predictions).rows
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: not what `predict --json` prints: {error}") from error
    for row in rows:
        if not row.measured_ms.value or min(row.measured_ms.value, row.measured_cpu_us) <= 0:
            raise ConfigurationError(f"{path}: no measured times of {row.replicas} replicas")
    return rows


def on_loopback(costs: Costs, cores: int) -> Costs:
    """All replicas share the cores of this machine."""
    return msgspec.structs.replace(costs, cores=cores, shared=True)


def fitted(costs: Costs, measured: Sequence[Measured], cores: int) -> Costs:
    """The costs whose CPU time is nearest to what was measured, in relative least squares."""
    changed = costs
    for _ in range(_ROUNDS):
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


def _timed(costs: Costs, like: Measured, cores: int) -> Timed:
    return timed(
        Point(
            replicas=like.replicas,
            lever=Lever.PRODUCT,
            costs=on_loopback(costs, cores),
            blocks=_BLOCKS,
        )
    )


def predict(costs: Costs, measured: Measured, cores: int, *, fitted_to: bool) -> Prediction:
    """One size, one request at a time."""
    run = _timed(costs, measured, cores)
    predicted_ms, found = median(run.proposer_ms), measured.ms
    assert found.value is not None
    cpu_us = sum(run.work_us.values()) - run.work_us.get("sync", 0.0)
    return Prediction(
        replicas=measured.replicas,
        fitted_to=fitted_to,
        predicted_ms=predicted_ms,
        measured_ms=found,
        error=predicted_ms / found.value - 1,
        error_lo=predicted_ms / found.hi - 1 if found.hi else None,
        error_hi=predicted_ms / found.lo - 1 if found.lo else None,
        predicted_cpu_us=cpu_us,
        measured_cpu_us=measured.cpu_us,
        load=measured.load,
    )
