"""The figures of several results: two side by side, and all against the number of replicas.

Every point has its value beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from testbed.errors import ConfigurationError
from testbed.report.compare import ARMS, Comparison, Curve
from testbed.report.pairing import Estimate, value_in_words
from testbed.report.style import (
    BLUE,
    ORANGE,
    WATERMARK,
    Plot,
    figure,
    log_axis,
    rendered,
    styled,
)

__all__ = ["beside", "draw_beside", "draw_over_replicas", "over_replicas"]

ROW_IN = 0.32
NAMES_IN = 2.0  # left of the rows
PANEL_IN = 1.7
GAP_IN = 0.5  # between panels
_VALUE_SIZE = 6
# colour, marker, and how far from the middle of its row
_A, _B = (BLUE, "o", -0.16), (ORANGE, "s", 0.16)
_CROWDED = 0.09  # of the axis: values that are nearer to each other are turned
# colour, marker and line; 1 if values stand above their points, -1 if below
_UPPER, _LOWER = (ORANGE, "s--", 1), (BLUE, "o-", -1)
_ALONE = (BLUE, "o-", 1)


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
            shape = ">" if each.at_least else marker
            axes.plot(each.value, at, marker=shape, markersize=4, color=colour)
            axes.plot(_interval(each), (at, at), color=colour, linewidth=0.8)
        axes.annotate(
            value_in_words(each) if each.value else f"{name[0]}: 0",
            (_interval(each)[1] or 0, at),
            xycoords="data" if each.value else axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=_VALUE_SIZE,
            va="center_baseline",
        )


def draw_over_replicas(curves: Sequence[Curve], *, loopback: bool) -> tuple[Plot, ...]:
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


def over_replicas(curves: Sequence[Curve], mark: str | None = None) -> Figure:
    """Panels one below the other, each with the curves of one thing."""
    sizes = [size for size, _ in curves[0].points]
    nearest = min(math.log(b / a) for a, b in pairwise(sizes)) / math.log(sizes[-1] / sizes[0])
    rotation = 90 if nearest < _CROWDED else 0
    groups = [(of, list(same)) for of, same in groupby(curves, key=lambda each: each.of)]
    height_in = PANEL_IN * len(groups) + GAP_IN
    made = figure(height_in, mark, left_in=0.8)
    made.subplots_adjust(hspace=GAP_IN / (PANEL_IN - GAP_IN))
    for number, (of, same) in enumerate(groups, 1):
        axes: Axes = made.add_subplot(len(groups), 1, number)
        logarithmic = same[0].unit == "ms"
        if logarithmic:
            axes.set_yscale("log")
        looks = (_LOWER, _UPPER) if len(same) > 1 else (_ALONE,)
        for curve, look in zip(same, looks, strict=True):
            _curve(axes, curve, look, rotation)
        axes.margins(x=0.08, y=0.5 if rotation else 0.28)  # room for values
        if logarithmic:
            log_axis(axes.yaxis)
        else:
            axes.set_ylim(0, axes.get_ylim()[1])
        axes.tick_params(axis="y", labelsize=7)
        axes.set_ylabel(f"{of} ({same[0].unit}{', log' if logarithmic else ''})", fontsize=7)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        if number == 1:
            axes.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.set_xlabel("replicas N (log)")
    return made


def _curve(axes: Axes, curve: Curve, look: tuple[str, str, int], rotation: int) -> None:
    colour, line, side = look
    axes.plot(
        [size for size, _ in curve.points],
        [each.value or 0 for _, each in curve.points],
        line,
        color=colour,
        markersize=4,
        label=curve.name,
    )
    for size, each in curve.points:
        ends = _interval(each)
        axes.plot([size, size], ends, color=colour, linewidth=0.8)
        axes.annotate(
            value_in_words(each),
            (size, ends[side > 0]),
            xytext=(0, 4 * side),
            textcoords="offset points",
            fontsize=_VALUE_SIZE,
            ha="center",
            va="bottom" if side > 0 else "top",
            rotation=rotation,
        )


def _interval(each: Estimate) -> tuple[float, float]:
    """Its ends, which are at the value where there is none."""
    assert each.value is not None
    lo = each.value if each.lo is None else each.lo
    return lo, each.value if each.hi is None else each.hi
