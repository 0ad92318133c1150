"""The figure of a load that rises in steps: latency and goodput against offered load.

It is a file of its own because the drawing code takes a second to import, and is not needed to find
the knee.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from testbed.report.saturation import Saturation
from testbed.report.style import BLUE, GREY, ORANGE, figure, log_axis

__all__ = ["draw_saturation"]


def draw_saturation(found: Saturation, mark: str | None) -> Figure:
    """Left: latency against offered load. Right: goodput against offered load, beside the line on
    which everything is answered."""
    made = figure(2.8, mark)
    made.subplots_adjust(wspace=0.3, top=0.86)
    grid = made.add_gridspec(1, 2)
    times, rates = (made.add_subplot(grid[0, column]) for column in (0, 1))
    offered = [step.offered_per_s for step in found.steps]
    times.plot(offered, [step.p99_ms for step in found.steps], "s--", color=ORANGE, label="p99")
    times.plot(offered, [step.p50_ms for step in found.steps], "o-", color=BLUE, label="p50")
    rates.plot(offered, offered, ":", color=GREY, label="offered")
    rates.plot(
        offered, [step.goodput_per_s for step in found.steps], "o-", color=BLUE, label="answered"
    )
    for axes in (times, rates):
        axes.set_xscale("log")
        log_axis(axes.xaxis)
        axes.set_xlabel("offered (1/s, log)")
        if found.knee is not None:
            axes.axvline(found.knee.offered_per_s, color="black", linewidth=0.8)
        axes.legend(fontsize=6, loc="upper left")
    times.set_yscale("log")
    log_axis(times.yaxis)
    times.set_ylabel("latency (ms, log)")
    rates.set_ylabel("answered in time (1/s)")
    made.suptitle(found.in_words, fontsize=8)
    return made
