"""The figure of time to consensus over N: ratios to N = 4, the work behind them, access."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chain.quorum import REPLICAS_MIN
from testbed.model.consensus import PAPER_RATIO
from testbed.model.curve import GOAL, WORK, Curve, Curves, obstacle, risks
from testbed.model.group import scientific
from testbed.model.predict import SizeComparison
from testbed.model.real_core import Lever
from testbed.report.pairing import Estimate, plain
from testbed.report.style import (
    COLOURS,
    GREY,
    LINES,
    figure,
    log_axis,
    rendered,
    styled,
    write_beside,
)

__all__ = ["draw"]

_HEIGHT_IN = 8.6
_TEXT_CHARACTERS = 118
_MARKERS = "osD^vP*X"
_LABELS_APART = 1.105  # factor on a logarithmic axis
_LEAST = 0.55  # of the ratios' axis: the part below 1 is room for the legend


def draw(found: Curves, measured: Sequence[SizeComparison], kind: str) -> bytes:
    """`kind` is "svg" or "pdf". `measured`: what real processes took."""
    with styled():
        made = figure(_HEIGHT_IN, None)
        made.subplots_adjust(top=0.965, bottom=0.14, hspace=0.42)
        grid = made.add_gridspec(3, 1, height_ratios=(5, 2.4, 2.4))
        # Groups matter only for access requests.
        core = [curve for curve in found.core if curve.name != Lever.GROUP.value]
        _ratios(made.add_subplot(grid[0]), found, core, measured)
        if core:
            _work(made.add_subplot(grid[1]), core)
        _access(made.add_subplot(grid[2]), found.access)
        _notes(made, found)
        return rendered(made, kind)


def _ratios(
    axes: Axes, found: Curves, core: Sequence[Curve], measured: Sequence[SizeComparison]
) -> None:
    last = found.event_model.rows[-1].replicas
    for curve, line in ((found.event_model, "-"), (found.closed_form, ":")):
        _line(axes, curve, _ratios_of(curve), colour="#444444", line=line, marker="")
    for place, curve in enumerate(core):
        _line(axes, curve, _ratios_of(curve), **_look(place))
    _loopback(axes, measured)
    axes.plot([100], [PAPER_RATIO], "*", color="black", markersize=10, label="the paper: 5.34")
    axes.axhline(GOAL, color=GREY, linestyle="--", linewidth=1)
    right = max(last, 100) + 9
    goal = f"goal {GOAL:g}"
    write_beside(axes, goal, (right, GOAL), (-2, 2), fontsize=6, ha="right", va="baseline")
    axes.set_yscale("log")
    log_axis(axes.yaxis)
    axes.set_ylim(bottom=_LEAST)
    if core:
        _ends(axes, core)
    axes.set_xlim(0, right)
    axes.set_xticks(range(0, max(last, 100) + 1, 10))
    axes.set_xlabel("replicas N")
    axes.set_ylabel("time to consensus / that of N = 4 (log)")
    axes.set_title("Time to consensus over N, calibrated")
    axes.legend(fontsize=5.5, loc="lower right", ncols=3)


def _loopback(axes: Axes, measured: Sequence[SizeComparison]) -> None:
    """Two curves, predicted and measured, with all replicas on one machine's cores and without link
    delays."""
    base = next((each for each in measured if each.replicas == REPLICAS_MIN), None)
    if base is None:
        return
    sizes = [each.replicas for each in measured]
    predicted = [_value(each.predicted_ms) / _value(base.predicted_ms) for each in measured]
    found = [_value(each.measured_ms) / _value(base.measured_ms) for each in measured]
    axes.plot(sizes, predicted, color=GREY, linewidth=1, label="all on shared cores, predicted")
    axes.plot(sizes, found, "kx", label="all on shared cores, measured", markersize=5)


def _value(estimate: Estimate) -> float:
    assert estimate.value is not None  # of a round at least
    return estimate.value


def _ratios_of(curve: Curve) -> list[float]:
    return [row.ratio for row in curve.rows]


def _look(place: int) -> dict[str, str]:
    return {
        "colour": COLOURS[place % len(COLOURS)],
        "line": LINES[place % len(LINES)],
        "marker": _MARKERS[place % len(_MARKERS)],
    }


def _line(
    axes: Axes, curve: Curve, values: list[float], *, colour: str, line: str, marker: str
) -> None:
    axes.plot(
        [row.replicas for row in curve.rows],
        values,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=3,
        label=curve.name,
    )


def _ends(axes: Axes, core: Sequence[Curve]) -> None:
    """Writes the last ratio of each curve beside it, so that the texts do not overlap."""
    ends = sorted((curve.rows[-1].ratio, place) for place, curve in enumerate(core))
    ats: list[float] = []
    for ratio, _ in ends:
        ats.append(max(ratio, ats[-1] * _LABELS_APART) if ats else ratio)
    # On average the texts are as far above their curves as below.
    shift = math.prod(r / at for at, (r, _) in zip(ats, ends, strict=True)) ** (1 / len(ends))
    axes.set_ylim(top=max(axes.get_ylim()[1], ats[-1] * shift * _LABELS_APART))
    for at, (ratio, place) in zip(ats, ends, strict=True):
        end = core[place].rows[-1].replicas, at * shift
        colour = COLOURS[place % len(COLOURS)]
        write_beside(axes, f"{ratio:.2f}", end, (4, 0), fontsize=6, color=colour)


def _work(axes: Axes, core: Sequence[Curve]) -> None:
    """Bars of a replica's work per block, at the smallest and the largest N of each curve."""
    rows = [(curve.name, row) for curve in core for row in (curve.rows[0], curve.rows[-1])]
    for place, (_, row) in enumerate(rows):
        left = 0.0
        for number, what in enumerate(WORK):
            ms = row.work_us.get(what, 0.0) / 1000
            axes.barh(
                place, ms, left=left, color=COLOURS[number], label=WORK[what] if not place else None
            )
            left += ms
        write_beside(axes, f"{left:.1f}", (left, place), (2, 0), fontsize=5)
    axes.set_yticks(range(len(rows)), [f"{name}, {row.replicas}" for name, row in rows], fontsize=5)
    axes.tick_params(axis="y", length=0, pad=1)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    left_x, bottom, width, height = axes.get_position().bounds
    axes.set_position((left_x + 0.16, bottom, width - 0.16, height))
    axes.set_xlabel("ms of work per block and replica")
    axes.legend(fontsize=5, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4)
    axes.grid(visible=False, axis="y")


def _access(axes: Axes, access: Sequence[Curve]) -> None:
    for place, curve in enumerate(access):
        values = [row.ms.value for row in curve.rows]
        _line(axes, curve, values, **_look(place))
    axes.set_xlabel("replicas N")
    axes.set_ylabel("access request (ms)")
    axes.set_ylim(bottom=0)
    if access:
        axes.legend(fontsize=6, loc="upper left")


def _notes(made: Figure, found: Curves) -> None:
    last = found.event_model.rows[-1].replicas
    notes = [
        f"Real core: the code that runs on boards, in virtual time; mean link delay "
        f"{plain(found.delay_ms, 3)} ms; calibrated: {found.calibration}.",
        *(obstacle(curve) + "." for curve in found.core if curve.name in _EXPLAINED),
    ]
    if found.access and last >= 16:
        listed = ", ".join(f"{scientific(risk)} with {liars} liars" for liars, risk in risks(last))
        notes.append(
            f"{found.access[-1].name}: a wrong accept per request at N = {last}: {listed}."
        )
    text = "\n".join(fill(note, _TEXT_CHARACTERS) for note in notes)
    made.text(0.02, 0.008, text, fontsize=5.5, va="bottom")


_EXPLAINED = ("the product", "all together")
