"""report.html: pages that open anywhere and offline, with the figures inside. The page of several
results: `compare_page`.

A bundle has one page. Each run has its own, to which the table of runs links.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from testbed.bundle import Bundle
from testbed.checks.evidence import Evidence
from testbed.report.machines import Machines
from testbed.report.results import replay_command
from testbed.report.style import WATERMARK, Plot
from testbed.report.summary import RunSummary, Summary
from testbed.report.templates import render
from testbed.report.where import Where

__all__ = ["inlined", "page", "run_page"]


def page(
    bundle: Bundle,
    summary: Summary,
    plots: Sequence[Plot],
    where: Where | None = None,
    machines: Machines | None = None,
) -> str:
    """The page of a bundle. `where` and `machines` are those of its run, if there is only one."""
    return render(
        "report.html.j2",
        name=summary.run,
        summary=summary,
        manifest=bundle.manifest,
        **_figures(plots),
        where=where,
        machines=machines,
        replay=replay_command(bundle.manifest),
        watermark=WATERMARK if summary.stage == "loopback" else None,
    )


def run_page(
    evidence: Evidence,
    summary: RunSummary,
    plots: Sequence[Plot],
    where: Where,
    machines: Machines,
) -> str:
    """The page of one run."""
    manifest = evidence.manifest
    return render(
        "run.html.j2",
        name=f"{manifest.run}/{evidence.run.entry.path}",
        entry=evidence.run.entry,
        summary=summary,
        manifest=manifest,
        **_figures(plots),
        where=where,
        machines=machines,
        replay=replay_command(manifest, evidence.run.entry.index),
        watermark=WATERMARK if manifest.stage == "loopback" else None,
    )


def _figures(plots: Sequence[Plot]) -> dict[str, list[tuple[str, Markup]]]:
    """Splits the figures: those of where the time goes have a section of their own."""
    drawn = [(name.startswith("way-"), (title, inlined(svg))) for name, title, svg in plots]
    return {
        "figures": [each for way, each in drawn if not way],
        "ways": [each for way, each in drawn if way],
    }


def inlined(svg: bytes) -> Markup:
    """The SVG without its XML prologue, which is only allowed at the beginning of a file."""
    text = svg.decode()
    return Markup(text[text.index("<svg") :])  # noqa: S704 - our own SVG
