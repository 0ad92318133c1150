"""Finds lying sensors among redundant ones, from the records of the chain.

Signed lies of a compromised sensor are good records to the chain: a signature proves the sender,
not the truth. If several sensors measure the same thing, a reader of the ledger can compare them.
This filter does so with medians, which a minority of liars cannot move far.

The score of a reading is the greater of two, each from the last `WINDOW_S` seconds only:

- distance: how far the sensor's median is from the median of all sensors' medians, in robust
  standard deviations: the modified z-score of B. Iglewicz and D. C. Hoaglin, "How to Detect and
  Handle Outliers" (ASQC Quality Press, 1993), with the median absolute deviation (MAD) from it
  of the middle sensor. It finds a bias or a drift.
- stillness: how many times smaller the sensor's own MAD is than that of the middle sensor. It finds
  a frozen value: the CONSTANT rule of A. B. Sharma, L. Golubchik and R. Govindan, "Sensor Faults:
  Detection Methods and Prevalence in Real-World Datasets" (ACM TOSN 6(3), 2010).

A reading is suspect above `THRESHOLD`, which Iglewicz and Hoaglin recommend. If half of the sensors
tell the same lie, the lie is the median, and the honest sensors are suspect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

__all__ = ["THRESHOLD", "WINDOW_S", "Sample", "scores"]

WINDOW_S: Final = 8.0
THRESHOLD: Final = 3.5
SENSORS_MIN: Final = 3
"""With fewer sensors it is not clear which one lies: all scores are 0."""
STILL_MIN: Final = 6
"""With fewer readings of a sensor in the window, a constant value means nothing."""
SPREAD_MIN: Final = 1.0
"""In the sensor's unit: its resolution. A smaller spread counts as this."""
_SIGMA: Final = 1.4826  # MAD of a normal distribution, as a share of its standard deviation


class Sample(NamedTuple):
    """One reading: when it was taken, by which sensor, and its value in the sensor's unit."""

    t_s: float
    sensor: str
    value: float


def scores(samples: Sequence[Sample]) -> list[float]:
    """One score for each sample. The samples must be in the order of time: a score depends on the
    sample and on earlier ones."""
    window: deque[Sample] = deque()
    found = []
    for sample in samples:
        window.append(sample)
        while window[0].t_s <= sample.t_s - WINDOW_S:
            window.popleft()
        found.append(_score(sample.sensor, window))
    return found


def _score(sensor: str, window: Sequence[Sample]) -> float:
    by_sensor: dict[str, list[float]] = {}
    for each in window:
        by_sensor.setdefault(each.sensor, []).append(each.value)
    if len(by_sensor) < SENSORS_MIN:
        return 0.0
    middles = {name: median(values) for name, values in by_sensor.items()}
    centre = median(middles.values())
    # The middle sensor's deviation: one that sends often counts no more than others.
    apart = (median(abs(value - centre) for value in values) for values in by_sensor.values())
    spread = max(SPREAD_MIN, _SIGMA * median(apart))
    distance = abs(middles[sensor] - centre) / spread
    if len(by_sensor[sensor]) < STILL_MIN:
        return distance
    own = {
        name: max(SPREAD_MIN, _SIGMA * median(abs(value - middles[name]) for value in values))
        for name, values in by_sensor.items()
        if len(values) >= STILL_MIN
    }
    return max(distance, median(own.values()) / own[sensor])
