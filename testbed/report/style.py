"""How figures look: colours that colour-blind readers can distinguish, embedded fonts, no dates.

The palette is that of Okabe and Ito. Lines also differ in dashes, and points in markers. Widths are
those of a two-column paper. The same data give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from testbed.bundle import Folder

__all__ = [
    "BLUE",
    "COLOURS",
    "GREY",
    "LEFT_IN",
    "LINES",
    "ORANGE",
    "TOP_IN",
    "WATERMARK",
    "WIDTH_IN",
    "Plot",
    "figure",
    "log_axis",
    "rendered",
    "save",
    "styled",
    "write_beside",
]

# name, title, SVG
Plot = tuple[str, str, bytes]

WATERMARK = "loopback: not a measurement of boards"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE, GREY = COLOURS[0], COLOURS[1], "#BBBBBB"
LINES = ("-", "--", "-.", ":")
WIDTH_IN = 5.5
LEFT_IN, TOP_IN = 0.62, 0.28  # margins

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "m2m-testbed",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    # A name is no formula: one between dollar signs would end the report.
    "text.parse_math": False,
}
_NO_DATES: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


@contextmanager
def styled() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def figure(
    height_in: float,
    watermark: str | None,
    *,
    left_in: float = LEFT_IN,
    top_in: float = TOP_IN,
) -> Figure:
    """An empty figure, without a window system or global state. Labels of the y axis
    have `left_in` inches, what is above the axes `top_in`."""
    made = Figure(figsize=(WIDTH_IN, height_in))
    # Fixed margins in inches leave room for labels, so no layout has to be computed.
    made.subplots_adjust(
        left=left_in / WIDTH_IN,
        right=1 - 0.2 / WIDTH_IN,
        bottom=0.5 / height_in,
        top=1 - top_in / height_in,
    )
    FigureCanvasAgg(made)
    if watermark is not None:
        made.text(
            (1 + left_in / WIDTH_IN) / 2,
            0.5,
            watermark,
            fontsize=13,
            color="#888888",
            alpha=0.28,
            rotation=18,
            ha="center",
            va="center",
            zorder=10,
        )
    return made


def write_beside(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    away_pt: tuple[float, float] = (3, 0),
    **look: Any,
) -> None:
    """`at` is in data coordinates; `look` as in `Axes.annotate`."""
    look.setdefault("va", "center")
    look.setdefault("fontsize", 7)
    axes.annotate(text, at, xytext=away_pt, textcoords="offset points", **look)


# How many labels a decade must have room for, and its ticks then.
_MARKS = ((8, (1, 1.5, 2, 3, 5, 7)), (3, (1, 2, 5)), (2, (1, 3)))


class _LogTicks(LogLocator):
    """As many of each decade as have room for their labels."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        assert isinstance(self.axis, Axis)
        # Side by side, labels of five digits need more room than one above the other.
        ticks = self.axis.get_tick_space() / (1.35 if isinstance(self.axis, XAxis) else 1)
        each = ticks / math.log10(vmax / vmin)  # decade
        subs = next((marks for room, marks in _MARKS if each >= room), (1,))
        self.set_params(subs=subs, numticks=max(2, int(ticks)))
        return super().tick_values(vmin, vmax)


def log_axis(axis: Axis) -> None:
    """Logarithmic ticks, written as plain numbers."""
    axis.set_major_locator(_LogTicks())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    axis.set_minor_locator(NullLocator())


def save(folder: Folder, name: str, made: Figure, *, pdf: bool) -> bytes:
    """Write plots/<name>.svg, and .pdf if wanted; returns the SVG."""
    svg = rendered(made, "svg")
    folder.write(f"plots/{name}.svg", svg)
    if pdf:
        folder.write(f"plots/{name}.pdf", rendered(made, "pdf"))
    return svg


def rendered(made: Figure, kind: str) -> bytes:
    """`kind` is "svg" or "pdf"."""
    sink = io.BytesIO()
    made.savefig(sink, format=kind, metadata=_NO_DATES[kind])
    return _without_styles(sink.getvalue()) if kind == "svg" else sink.getvalue()


def _without_styles(svg: bytes) -> bytes:
    """The same SVG with presentation attributes (fill=, stroke=) instead of styles.

    CI servers show artifacts under a content security policy that drops every style. With styles,
    all figures are black rectangles there.
    """
    text = svg.decode()
    text = re.sub(r"<defs>\s*<style[^>]*>\*\{([^}]*)\}</style>\s*</defs>", "", text, count=1)
    rest = "stroke-linejoin: round; stroke-linecap: butt"
    text = text.replace("<svg ", f'<svg style="{rest}" ', 1)
    return re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), text).encode()


def _attributes(style: str) -> str:
    """` fill="none" stroke="#000000"` for `fill: none; stroke: #000000`."""
    pairs = [part.partition(":") for part in style.split(";") if part.strip()]
    return "".join(f' {name.strip()}="{value.strip()}"' for name, _, value in pairs)
