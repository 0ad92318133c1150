"""The ROC figure of false data: the filter's found lies against its false alarms.

ROC: receiver operating characteristic. One curve per attack; each point is a threshold. The
threshold in use is marked. Made from the ledger's readings (`testbed.checks.false_data`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.checks.attacks import attack_ids
from testbed.checks.evidence import Evidence
from testbed.checks.false_data import FALSE_DATA, Scored, honest, lies_of, scored
from testbed.checks.sensor_filter import THRESHOLD
from testbed.report.style import COLOURS, GREY, LINES, figure

__all__ = ["roc"]


def roc(evidence: Evidence, mark: str | None) -> Figure | None:
    """None if no sensor lied, or all of them."""
    attacks = [attack for attack, kind in attack_ids(evidence) if kind == FALSE_DATA]
    readings = scored(evidence) if attacks else []
    true = honest(readings)
    curves = {attack: lies for attack in attacks if (lies := lies_of(readings, attack))}
    if not curves or not true:
        return None
    made = figure(3.4, mark)
    axes: Axes = made.add_subplot()
    axes.plot((0, 1), (0, 1), color=GREY, linestyle=":", label="chance")
    for number, (attack, lies) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        thresholds = _thresholds(lies, true)
        axes.plot(
            [_share_above(true, each) for each in thresholds],
            [_share_above(lies, each) for each in thresholds],
            color=colour,
            linestyle=LINES[number % len(LINES)],
            label=f"{attack} ({len(lies)} lies)",
        )
        axes.plot(
            _share_above(true, THRESHOLD),
            _share_above(lies, THRESHOLD),
            marker="o",
            linestyle="none",
            color=colour,
        )
    in_use = f"threshold in use ({THRESHOLD:g})"
    axes.plot([], [], marker="o", linestyle="none", color="black", label=in_use)
    axes.set_xlabel(f"false alarms, share of {len(true)} honest readings")
    axes.set_ylabel("found, share of lies")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc="lower right", fontsize=7)
    return made


def _thresholds(*groups: Sequence[Scored]) -> list[float]:
    """From above all scores, where nothing is suspect, to below all."""
    found = {each.score for group in groups for each in group}
    return [max(found) + 1, *sorted(found, reverse=True), -1.0]


def _share_above(readings: Sequence[Scored], threshold: float) -> float:
    return float(np.mean([each.score > threshold for each in readings]))
