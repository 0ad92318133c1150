"""The figure of a load that rises in steps: latency and goodput against offered load.

It is a file of its own because the drawing code takes a second to import, and is not needed to find
the knee.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from testbed.report.pairing import known, median
from testbed.report.panels import Panel, panels
from testbed.report.saturation import Saturation
from testbed.report.style import GREY

__all__ = ["draw_saturation"]


def draw_saturation(found: Saturation, mark: str | None) -> Figure:
    """Latency against offered load; below it goodput, beside the line on which everything is
    answered."""
    offered = [step.offered_per_s for step in found.steps]
    p50, p99, answered = (
        [median([known(getattr(step, name))]) for step in found.steps]
        for name in ("p50_ms", "p99_ms", "goodput_per_s")
    )
    shown = [
        Panel("latency", "ms", {"p50": p50, "p99": p99}),
        Panel("answered in time", "1/s", {"answered": answered}),
    ]
    made = panels(offered, shown, "offered (1/s, log)", mark, top_in=0.5)
    _, rates = made.axes
    rates.plot(offered, offered, ":", color=GREY, label="offered")
    rates.set_ylim(0, 1.2 * max(offered))
    rates.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    if found.knee is not None:
        for axes in made.axes:
            axes.axvline(found.knee.offered_per_s, color="black", linewidth=0.8, zorder=1)
    made.suptitle(found.in_words, fontsize=8, y=0.985)
    return made
