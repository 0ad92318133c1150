"""The figures of where the time goes: the path of an operation, and the blocks at each replica.

Every step has a row, or a number beside it, so that no label can hide another.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gateway.hops import Hop
from testbed.report.pairing import plain
from testbed.report.style import COLOURS, GREY, figure
from testbed.report.where import Row, Where

__all__ = ["block_figure", "way_figure"]

WHO: Final = {
    "device": COLOURS[4],
    "relay": COLOURS[5],
    "gateway": COLOURS[2],
    "network": GREY,
    "replicas": COLOURS[0],
}
ROW_IN = 0.17
FRAME_IN = 0.95  # legend and axis
LABEL_IN = 1.75
LEGEND: Final[dict[str, Any]] = {
    "loc": "upper center",
    "ncols": 6,
    "fontsize": 7,
    "columnspacing": 1.2,
    "handlelength": 1.2,
}
BLOCK_COLOURS: Final = {
    Hop.PREPARED: COLOURS[5],
    Hop.SYNCED: COLOURS[1],
    Hop.COMMIT_SENT: COLOURS[4],
    Hop.COMMITTED: COLOURS[0],
    Hop.EXECUTED: COLOURS[2],
    Hop.SEALED: COLOURS[3],
}


def way_figure(where: Where, kind: str, mark: str | None) -> Figure:
    """A bar per step, from the end of the one before: medians of all operations of a kind."""
    rows = [row for row in where.rows if row.kind == kind]
    made = figure(FRAME_IN + ROW_IN * len(rows), mark, left_in=LABEL_IN)
    axes: Axes = made.add_subplot()
    at_ms = 0.0
    ends = []
    for number, row in enumerate(rows):
        width_ms = row.ms.p50 or 0.0
        axes.barh(number, width_ms, left=at_ms, height=0.75, color=WHO[row.part.who])
        at_ms += width_ms
        ends.append(at_ms)
    for number, (row, end_ms) in enumerate(zip(rows, ends, strict=True)):
        axes.annotate(
            _value(row),
            (end_ms, number),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
        )
    axes.set_yticks(range(len(rows)), [f"{row.part.who}: {row.part.what}" for row in rows])
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, at_ms * 1.22 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.set_xlabel("ms since the intended send (each step: median)")
    shown = {row.part.who for row in rows}
    handles = [Patch(color=colour, label=who) for who, colour in WHO.items() if who in shown]
    made.legend(handles=handles, **LEGEND)
    return made


def _value(row: Row) -> str:
    if row.ms.p50 is not None:
        return f"{plain(row.ms.p50, 3)} ms"
    return f"≤ {plain(row.bound_ms, 3)} ms: unresolvable" if row.unresolvable else "not known"


def block_figure(where: Where, mark: str | None) -> Figure:
    """A stacked bar per replica for blocks that it proposed, and one for blocks of others."""
    took: dict[tuple[str, bool], dict[Hop, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in where.blocks:
        took[each.replica, each.proposed][each.hop].append(each.took_ns / 1e6)
    bars = sorted(took, key=lambda bar: (bar[0], not bar[1]))
    made = figure(FRAME_IN + 2 * ROW_IN * len(bars), mark, left_in=LABEL_IN)
    axes: Axes = made.add_subplot()
    longest_ms = 0.0
    for number, bar in enumerate(bars):
        at_ms = 0.0
        for hop, colour in BLOCK_COLOURS.items():
            if values := took[bar].get(hop):
                width_ms = median(values)
                axes.barh(number, width_ms, left=at_ms, height=0.6, color=colour)
                at_ms += width_ms
        longest_ms = max(longest_ms, at_ms)
        axes.annotate(
            f"{plain(at_ms, 3)} ms",
            (at_ms, number),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
        )
    axes.set_yticks(range(len(bars)), [_label(bar, took[bar]) for bar in bars])
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, longest_ms * 1.18 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.set_xlabel("ms since it proposed or accepted the block (each step: median)")
    handles = [
        Patch(color=colour, label=hop.name.lower().replace("_", " "))
        for hop, colour in BLOCK_COLOURS.items()
    ]
    made.legend(handles=handles, **LEGEND)
    return made


def _label(bar: tuple[str, bool], took: dict[Hop, list[float]]) -> str:
    count = max((len(values) for values in took.values()), default=0)
    return f"{bar[0]}: {'its own' if bar[1] else 'others'} ({count} blocks)"
