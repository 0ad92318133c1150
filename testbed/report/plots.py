"""The figures over the runs of a campaign: every run is a point. The figures of one run:
`run_plots`.

A latency above its timeout is drawn at the timeout, as a triangle that points up. A run that never
recovered is drawn at the upper edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from testbed.bundle import Bundle
from testbed.report.panels import estimate_row
from testbed.report.style import (
    BLUE,
    GREY,
    ORANGE,
    WATERMARK,
    Plot,
    figure,
    log_axis,
    save,
    styled,
)
from testbed.report.summary import Figure, RunRow, Summary

__all__ = ["draw"]

# colour, marker, and how far from the trial: equal values do not hide each other
_ARMS = {"baseline": (BLUE, "o", -0.15), "faults": (ORANGE, "s", 0.15)}
_NAMES = ("runs", "ratios", "recovery")
_PANELS = (
    ("goodput_per_s", "goodput (/s)"),
    ("p50_ms", "data p50 (ms, log)"),
    ("p99_ms", "data p99 (ms, log)"),
)


def draw(bundle: Bundle, summary: Summary, *, pdf: bool = False) -> tuple[Plot, ...]:
    """Write every figure to the bundle and return it; remove figures that can no longer be drawn.

    A campaign of one run has no figure here: there is nothing to compare.
    """
    for name in _NAMES:
        for kind in ("svg", "pdf"):
            (bundle.path / f"plots/{name}.{kind}").unlink(missing_ok=True)
    mark = WATERMARK if summary.stage == "loopback" else None
    counted = [row for row in summary.runs if row.counted]
    if len(counted) < 2:
        return ()
    made: list[tuple[str, str, Drawing]] = []
    with styled():
        runs = _runs(counted, mark)
        made.append(("runs", "Each run, by trial; a line joins the two runs of a trial", runs))
        ratios = [each for each in summary.figures if each.ratio and each.ratio.value is not None]
        if ratios:
            drawn = _ratios(ratios, mark)
            made.append(("ratios", "With faults / baseline: median and 95 % interval", drawn))
        if summary.faults:
            made.append(
                ("recovery", "First commit after healing, of each run", _recovery(counted, mark))
            )
        return tuple((name, title, save(bundle, name, each, pdf=pdf)) for name, title, each in made)


def _runs(counted: Sequence[RunRow], mark: str | None) -> Drawing:
    made = figure(2.6, mark)
    made.subplots_adjust(wspace=0.42)
    for number, (name, label) in enumerate(_PANELS, 1):
        axes: Axes = made.add_subplot(1, len(_PANELS), number)
        _pairs(axes, counted, name)
        for arm, (colour, marker, shift) in _ARMS.items():
            loads = [(r.trial + shift, r.result.load.judged) for r in counted if r.arm == arm]
            points = [(at, getattr(load, name), load.timeout_ms) for at, load in loads if load.sent]
            if loads:
                seen = [(at, value) for at, value, _ in points if value is not None]
                which = "with faults" if arm == "faults" else arm
                _marks(axes, seen, marker, colour, markersize=4, label=which)
            beyond = [(at, timeout_ms) for at, value, timeout_ms in points if value is None]
            _marks(axes, beyond, "^", colour)
        if name != "goodput_per_s":
            axes.set_yscale("log")
            log_axis(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("trial")
        axes.set_title(label, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if number == 1:
            axes.legend(fontsize=6, loc="lower left")
    return made


def _marks(
    axes: Axes, points: Sequence[tuple[float, float]], marker: str, colour: str, **look: Any
) -> None:
    at, values = [at for at, _ in points], [value for _, value in points]
    axes.plot(at, values, linestyle="none", marker=marker, color=colour, **look)


def _pairs(axes: Axes, counted: Sequence[RunRow], name: str) -> None:
    for trial in {row.trial for row in counted}:
        rows = [row for row in counted if row.trial == trial]
        values = [getattr(row.result.load.judged, name) for row in rows]
        if len(values) > 1 and None not in values:
            at = [trial + _ARMS[row.arm][2] for row in rows]
            axes.plot(at, values, color=GREY, linewidth=0.8, zorder=1)


def _ratios(ratios: Sequence[Figure], mark: str | None) -> Drawing:
    """Rows of median and interval."""
    made = figure(0.9 + 0.26 * len(ratios), mark)
    made.subplots_adjust(left=0.16)
    axes: Axes = made.add_subplot()
    for place, each in enumerate(reversed(ratios)):
        assert each.ratio is not None
        estimate_row(axes, each.ratio, place, ORANGE, "o")
    axes.axvline(1.0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(ratios)), [f"{each.name}" for each in reversed(ratios)])
    axes.set_ylim(-0.6, len(ratios) - 0.4)
    axes.set_xscale("log")
    axes.margins(x=0.1)  # room for values
    log_axis(axes.xaxis)
    axes.set_xlabel("with faults / baseline (log)")
    return made


def _recovery(counted: Sequence[RunRow], mark: str | None) -> Drawing:
    made = figure(2.0, mark)
    axes: Axes = made.add_subplot()
    struck = [row for row in counted if row.arm == "faults"]
    points = [(row.trial, ms) for row in struck if (ms := row.result.recovery_ms) is not None]
    _marks(axes, points, "s", ORANGE, markersize=4)
    if never := [(row.trial, 1.0) for row in struck if row.result.recovery_ms is None]:
        at_edge = axes.get_xaxis_transform()
        label = f"never ({len(never)})"
        _marks(axes, never, "^", ORANGE, clip_on=False, transform=at_edge, label=label)
        axes.legend(fontsize=6, loc="lower left")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("trial")
    axes.set_ylabel("first commit after (ms)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return made
