"""How figures look: colours that colour-blind readers tell apart, embedded fonts, no dates.

Okabe and Ito's palette; with lines, markers and dashes differ as well. Widths are those of a
two-column paper. The same data give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from testbed.bundle import Bundle

__all__ = ["BLUE", "COLOURS", "GREY", "LINES", "ORANGE", "WIDTH_IN", "figure", "save", "styled"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE, GREY = COLOURS[0], COLOURS[1], "#BBBBBB"
LINES = ("-", "--", "-.", ":")
WIDTH_IN = 5.5

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
}
_NO_DATES = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


@contextmanager
def styled() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def figure(height_in: float, watermark: str | None) -> Figure:
    """An empty figure; no window system, no global state."""
    made = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(made)
    if watermark is not None:
        made.text(
            0.5,
            0.5,
            watermark,
            fontsize=13,
            color="#888888",
            alpha=0.28,
            rotation=18,
            ha="center",
            va="center",
            zorder=10,
            in_layout=False,
        )
    return made


def save(bundle: Bundle, name: str, made: Figure) -> bytes:
    """plots/<name>.svg and .pdf; answers the SVG."""
    drawn = {}
    for kind, metadata in _NO_DATES.items():
        sink = io.BytesIO()
        made.savefig(sink, format=kind, metadata=metadata)
        made.set_layout_engine("none")  # laid out once
        drawn[kind] = sink.getvalue()
        bundle.write(f"plots/{name}.{kind}", drawn[kind])
    return drawn["svg"]
