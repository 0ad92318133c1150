"""report.html: one file that opens anywhere, offline, with the figures inside."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from testbed.checks.evidence import Evidence
from testbed.report.plots import WATERMARK, Plot
from testbed.report.results import replay_command
from testbed.report.summary import Summary

__all__ = ["page"]

_environment = Environment(
    loader=PackageLoader("testbed.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(evidence: Evidence, summary: Summary, plots: Sequence[Plot]) -> str:
    figures = [(title, Markup(_inline(svg))) for _, title, svg in plots]  # noqa: S704 - our own SVG
    return _environment.get_template("report.html.j2").render(
        summary=summary,
        manifest=evidence.manifest,
        phases=evidence.schedule.phases,
        figures=figures,
        replay=replay_command(evidence),
        watermark=WATERMARK if summary.stage == "loopback" else None,
        ms=_ms,
    )


def _inline(svg: bytes) -> str:
    """Without the XML prologue, which belongs at the head of a file."""
    text = svg.decode()
    return text[text.index("<svg") :]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
