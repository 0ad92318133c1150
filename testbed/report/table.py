"""The end of a run on the terminal: verdict, counts, latencies, faults, attacks, properties."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.report.summary import FaultResult, Summary

__all__ = ["coloured", "head", "milliseconds", "plain_table", "render", "yes"]

_COLOURS = {
    "passed": "green",
    "held": "green",
    "failed": "red",
    "broken": "red",
    "invalid": "yellow",
    "degraded": "yellow",
    "partial": "yellow",
}


def render(summary: Summary, path: str | None = None) -> RenderableType:
    """`path` is the bundle's, to be printed as it is."""
    parts: list[RenderableType] = [head(_facts(summary), path), _latencies(summary)]
    if summary.faults:
        parts.append(_faults(summary))
    if summary.attacks:
        parts.append(_attacks(summary))
    parts.append(_properties(summary))
    parts += [Text(f"note: {note}", style="yellow") for note in summary.notes]
    return Group(*parts)


def head(facts: Iterable[tuple[str, Text]], path: str | None) -> Table:
    """Names and values; the bundle's path last."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in facts:
        grid.add_row(name, value)
    if path is not None:
        grid.add_row("bundle", Text(path, overflow="fold"))
    return grid


def _facts(summary: Summary) -> Iterator[tuple[str, Text]]:
    yield summary.campaign, coloured(summary.verdict)
    yield "devices admitted", Text(f"{summary.devices_admitted} of {summary.devices_expected}")
    yield "blocks", Text(f"{summary.blocks}, {summary.blocks_proven} proven final")
    yield "records", Text(f"{summary.records}, {summary.data_records} of them data")
    yield (
        "replicas",
        Text(f"{summary.replicas} (f = {summary.f}), {summary.view_changes} view changes"),
    )
    yield (
        "ledger verified",
        Text("yes, from genesis, from the files alone", style="green")
        if summary.ledger_verified
        else Text(f"NO: {summary.ledger_problem}", style="red"),
    )


def _latencies(summary: Summary) -> Table:
    table = plain_table("latency (ms)", "n", "p50", "p90", "p99", "max", "never answered")
    for name in ("admission", "consensus", "data"):
        row = getattr(summary.latency_ms, name)
        values = (milliseconds(value) for value in (row.p50, row.p90, row.p99, row.max))
        table.add_row(name, str(row.n), *values, str(row.censored))
    return table


def _faults(summary: Summary) -> Table:
    table = plain_table("fault", "target", "effect", "recovery ms", "whole ms")
    for each in summary.faults:
        recovery = (milliseconds(each.recovery_ms), milliseconds(each.whole_ms))
        table.add_row(f"{each.id} ({each.kind})", each.target, _effect(each), *recovery)
    return table


def _effect(fault: FaultResult) -> Text:
    """Seen, or the first step that is missing."""
    steps = {"not applied": fault.applied, "not seen": fault.observed, "not healed": fault.healed}
    missing = next((name for name, done in steps.items() if not done), None)
    return Text(missing, style="bold red") if missing else Text("seen", style="green")


def _attacks(summary: Summary) -> Table:
    table = plain_table(
        "attack", "verdict", "trials", "seen", "distinct", "succeeded", "95 % bound"
    )
    for each in summary.attacks:
        bound = "" if each.upper95 is None else f"{each.upper95:.3g}"
        counts = (each.trials, each.observed, each.distinct, each.successes)
        table.add_row(f"{each.id} ({each.kind})", coloured(each.verdict), *map(str, counts), bound)
    return table


def _properties(summary: Summary) -> Table:
    table = plain_table("property", "held")
    table.add_column("found", overflow="fold")
    for each in summary.properties:
        table.add_row(each.name, yes(each.held), Text(each.detail))
    return table


def plain_table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(1, 2, 0, 0))
    table.padding = (0, 2, 0, 0)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(
            name, justify="left" if name in ("target", "verdict", "held", "effect") else "right"
        )
    return table


def coloured(word: str) -> Text:
    return Text(word, style=f"bold {_COLOURS[word]}")


def yes(value: bool) -> Text:
    return Text("yes", style="green") if value else Text("no", style="bold red")


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
