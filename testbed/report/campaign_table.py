"""The end of a campaign of several runs on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.report.campaign_summary import CampaignSummary, RunRow
from testbed.report.figures import told
from testbed.report.pairing import Estimate
from testbed.report.table import coloured, head, milliseconds, plain_table, yes

__all__ = ["render_campaign"]

RUNS_SHOWN_MAX = 24


def render_campaign(summary: CampaignSummary, path: str | None = None) -> RenderableType:
    """`path` is the bundle's, to be printed as it is."""
    parts: list[RenderableType] = [head(_facts(summary), path), _runs(summary)]
    parts += [Text(f"run {row.index}: {row.reason}", style="yellow") for row in _amiss(summary)]
    parts.append(_figures(summary))
    if summary.faults:
        parts.append(_faults(summary))
    if summary.attacks:
        parts.append(_attacks(summary))
    parts.append(_properties(summary))
    parts += [Text(f"note: {note}", style="yellow") for note in summary.notes]
    return Group(*parts)


def _facts(summary: CampaignSummary) -> Iterator[tuple[str, Text]]:
    counts = summary.counts
    yield summary.campaign, coloured(summary.verdict)
    others = {"invalid": counts.invalid, "failed": counts.failed, "not made": counts.missing}
    rest = "".join(f", {count} {name}" for name, count in others.items() if count)
    yield "runs", Text(f"{counts.counted} of {counts.planned} in the figures{rest}")
    yield "replicas", Text(f"{summary.replicas} (f = {summary.f})")


def _runs(summary: CampaignSummary) -> Table:
    table = plain_table(
        "run (trial)", "state", "verdict", "goodput /s", "p50 ms", "p99 ms", "unanswered"
    )
    shown = summary.runs
    if len(shown) > RUNS_SHOWN_MAX:
        shown = tuple(row for row in shown if row.verdict != "passed" or not row.counted)
        shown = shown[:RUNS_SHOWN_MAX]
    for row in shown:
        name = f"{row.index} {row.arm} ({row.trial})"
        table.add_row(name, row.state, coloured(row.verdict) if row.verdict else "", *_load(row))
    if len(shown) < len(summary.runs):
        table.add_row(f"({len(summary.runs) - len(shown)} more: derived/runs.csv)")
    return table


def _amiss(summary: CampaignSummary) -> Sequence[RunRow]:
    """Runs whose reason not to count is told, as many as a screen holds."""
    return [row for row in summary.runs if row.reason and not row.counted][:RUNS_SHOWN_MAX]


def _load(row: RunRow) -> tuple[str, ...]:
    if not row.counted or row.goodput_per_s is None:
        return ("", "", "", "")
    quantiles = (milliseconds(row.p50_ms), milliseconds(row.p99_ms))
    return (f"{row.goodput_per_s:.2f}", *quantiles, str(row.censored))


def _figures(summary: CampaignSummary) -> Table:
    table = plain_table("median over runs", "baseline", "with faults")
    table.add_column("ratio", overflow="fold")
    for each in summary.figures:
        ratio = "–" if each.ratio is None else told(each.ratio)
        name = f"{each.name} ({each.unit})"
        table.add_row(name, _value(each.baseline), _value(each.faults), ratio)
    return table


def _value(each: Estimate) -> str:
    if each.value is None:
        return "–"
    return f"{'≥ ' if each.at_least else ''}{each.value:,.4g}"


def _faults(summary: CampaignSummary) -> Table:
    table = plain_table("fault", "runs", "observed", "healed", "recovery ms", "never")
    for each in summary.faults:
        seen = (f"{count} of {each.injected}" for count in (each.observed, each.healed))
        recovery = (_value(each.recovery_ms), str(each.recovery_ms.censored))
        table.add_row(f"{each.id} ({each.kind})", str(each.runs), *seen, *recovery)
    return table


def _attacks(summary: CampaignSummary) -> Table:
    table = plain_table(
        "attack", "verdict", "runs", "trials", "distinct", "succeeded", "95 % bound", "allowed"
    )
    for each in summary.attacks:
        bounds = ("" if b is None else f"{b:.4g}" for b in (each.upper95, each.allowed))
        counts = (each.runs, each.trials, each.distinct, each.successes)
        name = f"{each.id} ({each.kind})"
        table.add_row(name, coloured(each.verdict), *map(str, counts), *bounds)
    return table


def _properties(summary: CampaignSummary) -> Table:
    table = plain_table("property", "held")
    table.add_column("found", overflow="fold")
    for each in summary.properties:
        held = Text("?", style="bold yellow") if each.held is None else yes(each.held)
        of = "" if each.held_in is None else f"in {each.held_in} of {each.runs} runs"
        table.add_row(each.name, held, Text("; ".join(filter(None, [of, each.detail]))))
    return table
