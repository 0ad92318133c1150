"""Judges false data: how many of the lies on the chain the filter over redundant sensors finds.

It takes the readings on the ledger for which the device holds a receipt. The devices logged which
of them are false (`nodes.switch.sensor`), as the schedule ordered. All sensors of a lab count as
redundant: they are in one room. The filter does not know which readings are false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from chain.ledger.operations import Data
from testbed.campaign.injection import Judgement
from testbed.checks.evidence import Evidence
from testbed.checks.logs import DataAdded, SensorLies
from testbed.checks.records import SentReading, sent_reading
from testbed.checks.sensor_filter import THRESHOLD, WINDOW_S, Sample, scores
from testbed.checks.trials import Tried

__all__ = ["FALSE_DATA", "Scored", "honest", "judge_false_data", "lies_of", "scored"]

FALSE_DATA = "sensor.false-data"


class Scored(NamedTuple):
    """A reading, and the filter's score for it. `attack`: the attack that made it false; "" for a
    true one. `shadowed`: it is true, but the window still contains lies of the same sensor."""

    sample: Sample
    score: float
    attack: str
    shadowed: bool = False

    @property
    def suspect(self) -> bool:
        return self.score > THRESHOLD


class _WithValues(SentReading, frozen=True, kw_only=True):
    values: tuple[int, ...]


_Place = tuple[str, int | None, int]  # sensor, boot, number


def scored(evidence: Evidence) -> list[Scored]:
    """Every reading on the longest chain that has a receipt, in the order in which they were
    taken."""
    lies = _lies(evidence)
    found = sorted(_readings(evidence), key=lambda each: each[0])
    samples = [sample for sample, _ in found]
    lied_s: dict[str, float] = {}
    out = []
    for (sample, place), score in zip(found, scores(samples), strict=True):
        attack = lies.get(place, "")
        if attack:
            lied_s[sample.sensor] = sample.t_s
        last_s = lied_s.get(sample.sensor, sample.t_s - WINDOW_S)
        shadowed = not attack and sample.t_s - last_s < WINDOW_S
        out.append(Scored(sample, score, attack, shadowed))
    return out


def lies_of(readings: Sequence[Scored], attack: str) -> list[Scored]:
    return [each for each in readings if each.attack == attack]


def honest(readings: Sequence[Scored]) -> list[Scored]:
    """True readings of sensors that have not lied within the window."""
    return [each for each in readings if not each.attack and not each.shadowed]


def judge_false_data(evidence: Evidence, attack: str) -> Judgement:
    """A trial is one lying sensor, `sensor/<name>`. It succeeds if none of its lies was suspect.

    `details` has rates over readings with Clopper-Pearson bounds. Readings of one window are not
    independent, so the true intervals are wider.
    """
    tried = Tried(evidence, attack)
    readings = scored(evidence)
    lies, true = lies_of(readings, attack), honest(readings)
    lying = {f"sensor/{each.sample.sensor}" for each in lies}
    for line in tried.lines:
        tried.see(line, [trial for trial in line.trials if trial in lying])
    delays = _delays_s(lies)
    if found := sum(each.suspect for each in lies):
        tried.refused["filter:suspect"] = found
    missed = lying.intersection(tried.trials) - {f"sensor/{sensor}" for sensor in delays}
    return tried.judgement(len(missed), **_details(lies, true, delays))


def _details(
    lies: Sequence[Scored], true: Sequence[Scored], delays: Mapping[str, float]
) -> dict[str, float]:
    from testbed.checks.stats import interval95, upper95  # noqa: PLC0415 - numpy is slow to import

    found, alarms = (sum(each.suspect for each in some) for some in (lies, true))
    details: dict[str, float] = {
        "lies": len(lies),
        "lies_found": found,
        "honest_readings": len(true),
        "false_alarms": alarms,
    }
    if (rate := interval95(found, len(lies))) is not None:
        details |= {"found_lo95": round(rate[0], 4), "found_hi95": round(rate[1], 4)}
    if (upper := upper95(alarms, len(true))) is not None:
        details["false_alarm_upper95"] = round(upper, 4)
    if delays:
        details["delay_p50_s"] = round(median(delays.values()), 2)
        details["delay_max_s"] = round(max(delays.values()), 2)
    return details


def _delays_s(lies: Sequence[Scored]) -> dict[str, float]:
    """For each sensor that was found: the time from its first lie to its first suspect lie."""
    began: dict[str, float] = {}
    delays: dict[str, float] = {}
    for each in lies:
        sensor, t_s = each.sample.sensor, each.sample.t_s
        began.setdefault(sensor, t_s)
        if each.suspect:
            delays.setdefault(sensor, t_s - began[sensor])
    return delays


def _lies(evidence: Evidence) -> dict[_Place, str]:
    """By false reading, the attack that made it false."""
    faults = {f"sensor.{each.id}.json": each.fault for each in evidence.trial.events}
    return {
        (each.board or each.node, each.board_boot, each.number): faults[each.order]
        for each in evidence.events(SensorLies)
        if each.order in faults
    }


def _readings(evidence: Evidence) -> Iterator[tuple[Sample, _Place]]:
    receipts = {each.id: each.source or each.node for each in evidence.events(DataAdded)}
    for entry in evidence.longest.entries:
        sensor = receipts.get(entry.statement.request.hex())
        if sensor is None or not entry.took_effect or not isinstance(entry.operation, Data):
            continue
        taken_us = entry.operation.time_us or entry.statement.time_us
        reading = sent_reading(entry.operation, _WithValues)
        if reading is not None and reading.values:
            sample = Sample(taken_us / 1e6, sensor, float(reading.values[0]))
            yield sample, (sensor, reading.boot, reading.number)
