"""report.html: one file that opens anywhere, offline, with the figures inside."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from testbed.bundle import Bundle
from testbed.checks.evidence import Evidence
from testbed.report.campaign_summary import CampaignSummary
from testbed.report.figures import told
from testbed.report.pairing import Estimate
from testbed.report.plots import Plot
from testbed.report.results import replay_command
from testbed.report.style import WATERMARK
from testbed.report.summary import Summary

__all__ = ["campaign_page", "page"]

_environment = Environment(
    loader=PackageLoader("testbed.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(evidence: Evidence, summary: Summary, plots: Sequence[Plot]) -> str:
    """Of one run."""
    return _environment.get_template("report.html.j2").render(
        summary=summary,
        manifest=evidence.manifest,
        phases=evidence.schedule.phases,
        figures=_figures(plots),
        replay=replay_command(evidence.manifest),
        watermark=WATERMARK if summary.stage == "loopback" else None,
        ms=_ms,
    )


def campaign_page(bundle: Bundle, summary: CampaignSummary, plots: Sequence[Plot]) -> str:
    """Of several runs; each has a page of its own, to which the table of runs leads."""
    manifest = bundle.manifest
    return _environment.get_template("campaign.html.j2").render(
        summary=summary,
        manifest=manifest,
        figures=_figures(plots),
        replay=replay_command(manifest),
        watermark=WATERMARK if summary.stage == "loopback" else None,
        ms=_ms,
        estimate=_estimate,
        told=told,
    )


def _figures(plots: Sequence[Plot]) -> list[tuple[str, Markup]]:
    return [(title, Markup(_inline(svg))) for _, title, svg in plots]  # noqa: S704 - our own SVG


def _inline(svg: bytes) -> str:
    """Without the XML prologue, which belongs at the head of a file."""
    text = svg.decode()
    return text[text.index("<svg") :]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def _estimate(each: Estimate) -> str:
    if each.value is None:
        return "–"
    value = f"{'≥ ' if each.at_least else ''}{each.value:,.4g}"
    if each.lo is None:
        return value
    return f"{value} [{each.lo:,.4g}, {'∞' if each.hi is None else f'{each.hi:,.4g}'}]"
