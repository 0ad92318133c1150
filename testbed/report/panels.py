"""Curves over a logarithmic axis, in panels one below the other, each point with its value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.report.pairing import Estimate, value_in_words
from testbed.report.style import BLUE, ORANGE, TOP_IN, figure, log_axis, write_beside

__all__ = ["VALUE_SIZE", "Panel", "estimate_row", "panels"]

VALUE_SIZE = 6
PANEL_IN = 1.7
GAP_IN = 0.5  # between panels
_CROWDED = 0.09  # of the axis: values that are nearer to each other are turned
# colour, marker and line; 1 if values stand above their points, -1 if below
_UPPER, _LOWER = (ORANGE, "s--", 1), (BLUE, "o-", -1)
_ALONE = (BLUE, "o-", 1)
_FOOT_PT = (2, 12)  # above the foot of an axis: values of the lower curve, and of the upper one


class Panel(NamedTuple):
    """`curves` by name: one, or the lower and the upper one, with an estimate for each x."""

    title: str
    unit: str
    curves: Mapping[str, Sequence[Estimate]]


def panels(
    xs: Sequence[float],
    shown: Sequence[Panel],
    x_label: str,
    mark: str | None,
    *,
    top_in: float = TOP_IN,
) -> Figure:
    """Times have a logarithmic axis, all else a linear one. What is 0, or at least 0, has its value
    at the foot of a logarithmic axis, and no mark."""
    logs = sorted(math.log(x) for x in {*xs})
    nearest = min((b - a for a, b in pairwise(logs)), default=0.0)
    rotation = 90 if nearest < _CROWDED * (logs[-1] - logs[0]) else 0
    height_in = PANEL_IN * len(shown) + GAP_IN + top_in - TOP_IN
    made = figure(height_in, mark, left_in=0.8, top_in=top_in)
    made.subplots_adjust(hspace=GAP_IN / (PANEL_IN - GAP_IN))
    for number, (title, unit, curves) in enumerate(shown, 1):
        axes: Axes = made.add_subplot(len(shown), 1, number)
        axes.set_xscale("log")
        log_axis(axes.xaxis)
        logarithmic = unit == "ms"
        if logarithmic:
            axes.set_yscale("log")
            if not any(each.value for values in curves.values() for each in values):
                axes.set_ylim(1, 10)  # any: nothing stands on it
        looks = (_LOWER, _UPPER) if len(curves) > 1 else (_ALONE,)
        for (name, values), look in zip(curves.items(), looks, strict=True):
            axes.plot([], [], look[1], color=look[0], markersize=4, label=name)
            _curve(axes, xs, values, look, rotation)
        axes.margins(x=0.08, y=0.5 if rotation else 0.28)  # room for values
        if logarithmic:
            log_axis(axes.yaxis)
        else:
            axes.set_ylim(0, axes.get_ylim()[1])
        axes.tick_params(axis="y", labelsize=7)
        axes.set_ylabel(f"{title} ({unit}{', log' if logarithmic else ''})", fontsize=7)
        if number == 1:
            axes.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.set_xlabel(x_label)
    return made


def _curve(
    axes: Axes,
    xs: Sequence[float],
    values: Sequence[Estimate],
    look: tuple[str, str, int],
    rotation: int,
) -> None:
    colour, line, side = look
    is_log = axes.get_yscale() == "log"
    nothing = math.nan if is_log else 0.0
    shown = [each.value or nothing for each in values]
    axes.plot(xs, shown, line, color=colour, markersize=4)
    for x, each in zip(xs, values, strict=True):
        ends = _interval(each)
        axes.plot([x, x], ends, color=colour, linewidth=0.8)
        is_at_foot = is_log and not ends[side > 0]
        above_pt = _FOOT_PT[side > 0] if is_at_foot else 4 * side
        write_beside(
            axes,
            value_in_words(each),
            (x, 0 if is_at_foot else ends[side > 0]),
            (0, above_pt),
            xycoords=axes.get_xaxis_transform() if is_at_foot else "data",
            fontsize=VALUE_SIZE,
            ha="center",
            va="bottom" if above_pt > 0 else "top",
            rotation=rotation,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.3},
        )


def estimate_row(axes: Axes, each: Estimate, at: float, colour: str, marker: str) -> None:
    """A median with its interval and its value, at this place of the vertical axis. An open end is
    an arrow."""
    assert each.value is not None
    end = _interval(each)[1]
    if each.lo is not None and each.hi is None:
        end = 2 * max(each.value, each.lo)
        axes.plot(end, at, marker=">", markersize=4, color=colour)
    shape = ">" if each.at_least else marker
    axes.plot(each.value, at, marker=shape, markersize=4, color=colour)
    axes.plot((_interval(each)[0], end), (at, at), color=colour, linewidth=0.8)
    text = value_in_words(each)
    write_beside(axes, text, (end, at), (4, 0), fontsize=VALUE_SIZE, va="center_baseline")


def _interval(each: Estimate) -> tuple[float, float]:
    """Its ends, which are at the value where there is none."""
    assert each.value is not None
    lo = each.value if each.lo is None else each.lo
    return lo, each.value if each.hi is None else each.hi
