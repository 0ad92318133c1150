"""The figures of several results: two side by side, and all against the number of replicas.

Every point has its value beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.errors import ConfigurationError
from testbed.report.compare import ARMS, Comparison, SizeCurve
from testbed.report.pairing import Estimate
from testbed.report.panels import VALUE_SIZE, Panel, estimate_row, panels
from testbed.report.style import (
    BLUE,
    ORANGE,
    WATERMARK,
    Plot,
    figure,
    log_axis,
    rendered,
    styled,
    write_beside,
)

__all__ = ["beside", "draw_beside", "draw_over_replicas", "over_replicas"]

ROW_IN = 0.32
NAMES_IN = 2.0  # left of the rows
# colour, marker, and how far from the middle of its row
_A, _B = (BLUE, "o", -0.16), (ORANGE, "s", 0.16)


def draw_beside(found: Comparison, kind: str = "svg") -> bytes:
    """Every figure of two results in one drawing. `kind` is "svg" or "pdf". Raises
    ConfigurationError if there is nothing to draw."""
    with styled():
        return rendered(beside(found), kind)


def beside(found: Comparison) -> Figure:
    """A row for each figure, a point for A and one for B. The axis is logarithmic: a 0 stands at
    its left end. Raises ConfigurationError."""
    rows = [each for each in found.figures if None not in (each.a.value, each.b.value)]
    if not any(each.a.value or each.b.value for each in rows):
        all_zero = "every figure is 0 in both results"
        none = "; ".join(found.obstacles) or "no figure has a value in both results"
        raise ConfigurationError(f"nothing to draw: {all_zero if rows else none}")
    mark = WATERMARK if found.loopback else None
    made = figure(0.9 + ROW_IN * len(rows), mark, left_in=NAMES_IN)
    axes: Axes = made.add_subplot()
    one, two = found.systems
    _points(axes, [each.a for each in rows], f"A: {one}", _A)
    _points(axes, [each.b for each in rows], f"B: {two}", _B)
    names = [f"{each.name} ({each.unit}), {ARMS[each.arm]}" for each in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.margins(x=0.18)  # room for values at the right end, and for a 0 at the left one
    log_axis(axes.xaxis)
    axes.set_xlabel("median over runs (log)")
    axes.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return made


def _points(
    axes: Axes, values: Sequence[Estimate], name: str, look: tuple[str, str, float]
) -> None:
    colour, marker, shift = look
    axes.plot([], [], linestyle="none", marker=marker, markersize=4, color=colour, label=name)
    for place, each in enumerate(values):
        at = place + shift  # equal values do not hide each other
        if each.value:
            estimate_row(axes, each, at, colour, marker)
            continue
        left_end = {"xycoords": axes.get_yaxis_transform(), "va": "center_baseline"}
        write_beside(axes, f"{name[0]}: 0", (0, at), (4, 0), fontsize=VALUE_SIZE, **left_end)


def draw_over_replicas(curves: Sequence[SizeCurve], *, loopback: bool) -> tuple[Plot, ...]:
    """A figure for each arm: its quantities against the number of replicas, with intervals of the
    medians. `loopback`: they are no measurements of boards."""
    mark = WATERMARK if loopback else None
    with styled():
        return tuple(
            (
                f"replicas-{arm}",
                f"Runs {ARMS[arm]}",
                rendered(over_replicas(list(same), mark), "svg"),
            )
            for arm, same in groupby(curves, key=lambda each: each.arm)
        )


def over_replicas(curves: Sequence[SizeCurve], mark: str | None = None) -> Figure:
    """A panel for the curves of each thing; they all have the same numbers of replicas."""
    sizes = [size for size, _ in curves[0].points]
    shown = [
        Panel(of, same[0].unit, {each.name: [value for _, value in each.points] for each in same})
        for of, same in ((of, list(same)) for of, same in groupby(curves, lambda each: each.of))
    ]
    made = panels(sizes, shown, "replicas N (log)", mark)
    for axes in made.axes:
        axes.set_xticks(sizes, [str(size) for size in sizes])
    return made
