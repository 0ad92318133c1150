"""A page about several results, made as the page of one: it opens anywhere and offline."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from testbed.errors import ConfigurationError
from testbed.printed import shell_line
from testbed.report.compare import (
    ARMS,
    MADE_ALIKE,
    SAME_VERDICTS,
    Comparison,
    JudgedBundle,
    curves_over_replicas,
)
from testbed.report.compare_plots import draw_beside, draw_over_replicas
from testbed.report.page import inlined
from testbed.report.style import WATERMARK
from testbed.report.templates import render

__all__ = ["compare_page"]


def compare_page(results: Sequence[JudgedBundle], comparisons: Sequence[Comparison]) -> str:
    """`comparisons` of the first of `results` with each other one."""
    curves = curves_over_replicas(results)
    loopback = any(each.loopback for each in comparisons)
    names = [each.bundle.name for each in results]
    return render(
        "compare.html.j2",
        results=results,
        comparisons=comparisons,
        compared=[(each, _figure(each)) for each in comparisons],
        curves=curves,
        plots=draw_over_replicas(curves, loopback=loopback),
        again=shell_line(["testbed", "compare", *names, "--page", "FILE.html"]),
        inlined=inlined,
        arms=ARMS,
        made_alike=MADE_ALIKE,
        same_verdicts=SAME_VERDICTS,
        watermark=WATERMARK if loopback else None,
    )


def _figure(found: Comparison) -> Markup | None:
    try:
        return inlined(draw_beside(found))
    except ConfigurationError:  # nothing to draw: the page names the obstacles
        return None
