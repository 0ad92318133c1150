"""The figures of where the time goes: the path of an operation, and the blocks at each replica.

Every step has a row, or a number beside it, so that no label can hide another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gateway.hops import Hop
from testbed.report.pairing import plain
from testbed.report.style import COLOURS, GREY, figure, write_beside
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
BLOCK_COLOURS: Final = {
    Hop.PREPARED: COLOURS[5],
    Hop.SYNCED: COLOURS[1],
    Hop.COMMIT_SENT: COLOURS[4],
    Hop.COMMITTED: COLOURS[0],
    Hop.EXECUTED: COLOURS[2],
    Hop.SEALED: COLOURS[3],
}


class _Bar(NamedTuple):
    """One row: its `parts` (ms, colour) follow each other from `start_ms` on; `text` is beside."""

    name: str
    start_ms: float
    parts: Sequence[tuple[float, str]]
    text: str

    @property
    def end_ms(self) -> float:
        return self.start_ms + sum(ms for ms, _ in self.parts)


def way_figure(where: Where, kind: str, mark: str | None) -> Figure:
    """A bar per step, from the end of the one before: medians of all operations of a kind."""
    rows = [row for row in where.rows if row.kind == kind]
    bars: list[_Bar] = []
    for row in rows:
        start_ms = bars[-1].end_ms if bars else 0.0
        part = (row.ms.p50 or 0.0, WHO[row.part.who])
        bars.append(_Bar(f"{row.part.who}: {row.part.what}", start_ms, [part], _value(row)))
    made = figure(FRAME_IN + ROW_IN * len(bars), mark, left_in=LABEL_IN)
    _draw(made.add_subplot(), bars, height=0.75, room=1.22)
    made.axes[0].set_xlabel("ms since the intended send (each step: median)")
    shown = {row.part.who for row in rows}
    _legend(made, {who: colour for who, colour in WHO.items() if who in shown})
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
    bars = []
    for replica, proposed in sorted(took, key=lambda bar: (bar[0], not bar[1])):
        by_hop = took[replica, proposed]
        parts = [
            (median(by_hop[hop]), BLOCK_COLOURS[hop]) for hop in BLOCK_COLOURS if hop in by_hop
        ]
        count = max(map(len, by_hop.values()))
        name = f"{replica}: {'its own' if proposed else 'others'} ({count} blocks)"
        bars.append(_Bar(name, 0.0, parts, f"{plain(sum(ms for ms, _ in parts), 3)} ms"))
    made = figure(FRAME_IN + 2 * ROW_IN * len(bars), mark, left_in=LABEL_IN)
    _draw(made.add_subplot(), bars, height=0.6, room=1.18)
    made.axes[0].set_xlabel("ms since it proposed or accepted the block (each step: median)")
    _legend(
        made, {hop.name.lower().replace("_", " "): colour for hop, colour in BLOCK_COLOURS.items()}
    )
    return made


def _draw(axes: Axes, bars: Sequence[_Bar], *, height: float, room: float) -> None:
    """`room`: the length of the axis, to that of what is drawn."""
    for place, bar in enumerate(bars):
        left_ms = bar.start_ms
        for ms, colour in bar.parts:
            axes.barh(place, ms, left=left_ms, height=height, color=colour)
            left_ms += ms
        write_beside(axes, bar.text, (bar.end_ms, place))
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, max((bar.end_ms for bar in bars), default=0.0) * room or 1)
    axes.xaxis.set_major_locator(MaxNLocator(8))


def _legend(made: Figure, colours: Mapping[str, str]) -> None:
    made.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        loc="upper center",
        ncols=6,
        fontsize=7,
        columnspacing=1.2,
        handlelength=1.2,
    )
