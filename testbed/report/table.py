"""The end of a campaign on the terminal: verdict, runs, latencies, faults, attacks, properties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.report.figures import ratio_in_words
from testbed.report.pairing import ms_in_words, value_in_words
from testbed.report.summary import FaultOverRuns, PropertyResult, RunRow, Summary

__all__ = ["render"]

RUNS_SHOWN_MAX = 24

_COLOURS = {
    "passed": "green",
    "held": "green",
    "failed": "red",
    "broken": "red",
    "invalid": "yellow",
    "degraded": "yellow",
    "partial": "yellow",
    "skipped": "yellow",
}
_LEFT = ("target", "verdict", "held", "effect", "state")


def render(summary: Summary, path: str | None = None) -> RenderableType:
    """`path` is the bundle's; it is printed as it is."""
    parts: list[RenderableType] = [_head(summary, path)]
    if len(summary.runs) > 1:
        parts.append(_runs(summary))
    parts += [Text(f"run {row.index}: {row.reason}", style="yellow") for row in _amiss(summary)]
    parts.append(_latencies(summary))
    if any(each.ratio for each in summary.figures):
        parts.append(_figures(summary))
    if summary.faults:
        parts.append(_faults(summary))
    if summary.attacks:
        parts.append(_attacks(summary))
    parts.append(_properties(summary))
    if summary.claims:
        parts.append(_claims(summary))
    parts += [
        Text(f"skipped: {each.id} ({each.kind}): {each.reason}", style="yellow")
        for each in summary.skipped
    ]
    parts += [Text(f"note: {note}", style="yellow") for note in summary.notes]
    return Group(*parts)


def _head(summary: Summary, path: str | None) -> Table:
    """Names and values; the bundle's path last."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in _facts(summary):
        grid.add_row(name, value)
    if path is not None:
        grid.add_row("bundle", Text(path, overflow="fold"))
    return grid


def _facts(summary: Summary) -> Iterator[tuple[str, Text]]:
    counts = summary.counts
    yield summary.campaign, _coloured(summary.verdict)
    others = {"invalid": counts.invalid, "failed": counts.failed, "not made": counts.missing}
    rest = "".join(f", {count} {name}" for name, count in others.items() if count)
    yield "runs", Text(f"{counts.counted} of {counts.planned} in the figures{rest}")
    yield "devices admitted", Text(f"{summary.devices_admitted} of {summary.devices_expected}")
    yield "blocks", Text(f"{summary.blocks}, {summary.blocks_proven} proven final")
    yield "records", Text(f"{summary.records}, {summary.data_records} of them data")
    yield (
        "replicas",
        Text(f"{summary.replicas} (f = {summary.f}), view changes: {summary.view_changes}"),
    )
    yield (
        "ledger verified",
        Text("yes, from genesis, from the files alone", style="green")
        if summary.ledger_verified
        else Text(f"NO: {summary.ledger_problem}", style="red"),
    )


def _runs(summary: Summary) -> Table:
    table = _plain_table(
        "run (trial)", "state", "verdict", "goodput /s", "p50 ms", "p99 ms", "unanswered"
    )
    shown = summary.runs
    if len(shown) > RUNS_SHOWN_MAX:
        shown = tuple(r for r in shown if not r.counted or r.result.verdict != "passed")
        shown = shown[:RUNS_SHOWN_MAX]
    for row in shown:
        name = f"{row.index} {row.arm} ({row.trial})"
        verdict = _coloured(row.summary.verdict) if row.summary else ""
        table.add_row(name, row.state, verdict, *_load(row))
    if len(shown) < len(summary.runs):
        table.add_row(f"({len(summary.runs) - len(shown)} more: derived/runs.csv)")
    return table


def _load(row: RunRow) -> Sequence[str]:
    if not row.counted or not row.result.load.judged.sent:
        return ("", "", "", "")
    load = row.result.load.judged
    quantiles = (ms_in_words(load.p50_ms), ms_in_words(load.p99_ms))
    return (f"{load.goodput_per_s:.2f}", *quantiles, str(load.sent - load.answered))


def _amiss(summary: Summary) -> Sequence[RunRow]:
    """The runs that do not count, at most as many as fit on a screen. (The notes say why a run is
    invalid.)"""
    rows = [row for row in summary.runs if row.reason and row.state not in ("done", "invalid")]
    return rows[:RUNS_SHOWN_MAX]


def _latencies(summary: Summary) -> Table:
    table = _plain_table("latency (ms)", "n", "p50", "p90", "p99", "max", "never answered")
    for name in ("admission", "consensus", "data"):
        row = getattr(summary.latency_ms, name)
        values = (ms_in_words(value) for value in (row.p50, row.p90, row.p99, row.max))
        table.add_row(name, str(row.n), *values, str(row.censored))
    return table


def _figures(summary: Summary) -> Table:
    table = _plain_table("median over runs", "baseline", "with faults")
    table.add_column("median of paired ratios", overflow="fold")
    for each in summary.figures:
        ratio = "–" if each.ratio is None else ratio_in_words(each.ratio)
        name = f"{each.name} ({each.unit})"
        table.add_row(name, value_in_words(each.baseline), value_in_words(each.faults), ratio)
    return table


def _faults(summary: Summary) -> Table:
    table = _plain_table("fault", "target", "runs", "effect", "recovery ms", "whole ms", "never")
    for each in summary.faults:
        table.add_row(
            f"{each.id} ({each.kind})",
            ", ".join(each.targets),
            str(each.runs),
            _effect(each),
            value_in_words(each.recovery_ms),
            value_in_words(each.whole_ms),
            str(each.recovery_ms.censored),
        )
    return table


def _effect(fault: FaultOverRuns) -> Text:
    """ "seen", or the first step that is missing."""
    steps = {"not applied": fault.applied, "not seen": fault.observed, "not healed": fault.healed}
    for name, done in steps.items():
        if done < fault.injected:
            of = f"{fault.injected - done} of {fault.injected} " if fault.injected > 1 else ""
            return Text(f"{of}{name}", style="bold red")
    return Text("seen", style="green")


def _attacks(summary: Summary) -> Table:
    table = _plain_table(
        "attack", "verdict", "trials", "seen", "distinct", "succeeded", "95 % bound", "allowed"
    )
    for each in summary.attacks:
        bounds = ("" if b is None else f"{b:.3g}" for b in (each.upper95, each.allowed))
        counts = (each.trials, each.observed, each.distinct, each.successes)
        name = f"{each.id} ({each.kind})"
        table.add_row(name, _coloured(each.verdict), *map(str, counts), *bounds)
    return table


def _properties(summary: Summary) -> Table:
    table = _plain_table("property", "held")
    table.add_column("found", overflow="fold")
    for each in summary.properties:
        over_runs = each.held_in is not None and each.runs > 1
        of = f"in {each.held_in} of {each.runs} runs" if over_runs else ""
        table.add_row(each.name, _held(each), Text("; ".join(filter(None, [of, each.detail]))))
    return table


def _claims(summary: Summary) -> Table:
    table = _plain_table("claim", "verdict", "trials", "95 % bound")
    table.add_column("shown by", overflow="fold")
    for each in summary.claims:
        bound = "" if each.upper95 is None else f"{each.upper95:.3g}"
        trials = str(each.trials) if each.trials else ""
        table.add_row(each.claim, _coloured(each.verdict), trials, bound, ", ".join(each.done))
    return table


def _held(found: PropertyResult) -> Text:
    if found.held is None:
        return Text("?", style="bold yellow")
    word = "yes" if found.held else "no"
    if found.expected == "broken":
        return Text(f"{word}, as expected" if not found.held else f"{word}, but it must break")
    return Text(word, style="green" if found.held else "bold red")


def _plain_table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name in _LEFT else "right")
    return table


def _coloured(word: str) -> Text:
    return Text(word, style=f"bold {_COLOURS[word]}")
