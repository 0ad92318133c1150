"""`testbed compare`: results side by side, and a gate for CI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from testbed.bundle import find_bundle
from testbed.commands.options import (
    JsonOption,
    columns,
    figure_kind,
    file_kind,
    print_json,
    write_out,
)
from testbed.errors import ConfigurationError
from testbed.report.pairing import plain, value_in_words

if TYPE_CHECKING:
    from testbed.report.compare import Comparison
    from testbed.report.pairing import Estimate

__all__ = ["compare"]


_NAMES = ("goodput", "p50", "p99", "max", "admission", "consensus")
BoundsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=X", help=f"NAME: {', '.join(_NAMES)}, or baseline.NAME."),
]


def compare(
    a: Annotated[str, typer.Argument(help="The first result: a bundle, or the name of a run.")],
    others: Annotated[list[str], typer.Argument(metavar="B...", help="One or more other results.")],
    *,
    max_ratio: BoundsOption = None,
    min_ratio: BoundsOption = None,
    fail_on_change: Annotated[
        bool, typer.Option("--fail-on-change", help="Fail if a verdict differs from that in A.")
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the figures of A and B (.svg, .pdf)."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one offline page about all of them (.html)."),
    ] = None,
    floods: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the floods of all, as of dos and dos-no-limits."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare results: differences, changed verdicts, and figures with their ratio.

    Ratios are B / A over the runs of each, with a 95 % interval where there are enough runs. Exit
    code 1 if a bound is given and not met, else 0.

    --max-ratio p99=1.2 is not met if the p99 of B is estimated at more than 1.2 times that of A, or
    if there is no estimate. A name alone, as p99, means the runs with faults, if there are any;
    baseline.p99 means the runs without.
    """
    figure_kind(figure)
    figure_kind(floods, "--floods")
    file_kind(page, "--page", "html")
    bounds = [*_bounds(max_ratio, at_most=True), *_bounds(min_ratio, at_most=False)]
    from testbed.report.compare import compare as compared  # noqa: PLC0415 - loads statistics
    from testbed.report.compare import read_result  # noqa: PLC0415 - see above

    results = [read_result(find_bundle(each)) for each in (a, *others)]
    found = [compared(results[0], other) for other in results[1:]]
    if figure is not None:
        from testbed.report.compare_plots import draw_beside  # noqa: PLC0415 - loads what draws

        write_out(figure, draw_beside(found[0], figure_kind(figure)))
    if floods is not None:
        from testbed.report.floods import draw_beside as draw_floods  # noqa: PLC0415 - see above

        write_out(floods, draw_floods(results, figure_kind(floods)))
    if page is not None:
        from testbed.report.compare_page import compare_page  # noqa: PLC0415 - see above

        write_out(page, compare_page(results, found).encode())
    failures = [list(_failures(each, bounds, fail_on_change)) for each in found]
    if as_json:
        comparisons = [
            msgspec.to_builtins(each) | {"failures": failed}
            for each, failed in zip(found, failures, strict=True)
        ]
        print_json({"ok": not any(failures), "comparisons": comparisons})
    else:
        parts = [_in_words(each, failed) for each, failed in zip(found, failures, strict=True)]
        typer.echo("\n\n".join(parts))
    raise typer.Exit(1 if any(failures) else 0)


def _bounds(stated: list[str] | None, *, at_most: bool) -> Iterator[tuple[str, float, bool]]:
    """Parses bounds to (arm.name or .name, factor, whether it is an upper bound). Raises
    ConfigurationError."""
    option = "--max-ratio" if at_most else "--min-ratio"
    for text in stated or ():
        match = re.fullmatch(r"((baseline|faults)\.)?([a-z0-9]+)=([0-9]+(\.[0-9]+)?)x?", text)
        if match is None or match[3] not in _NAMES:
            raise ConfigurationError(
                f"{option} {text}: say NAME=FACTOR, as p99=1.2; NAME is one of {', '.join(_NAMES)}"
            )
        yield f"{match[2] or ''}.{match[3]}", float(match[4]), at_most


def _failures(
    found: Comparison, bounds: list[tuple[str, float, bool]], fail_on_change: bool
) -> Iterator[str]:
    """Lists what misses its bound. A bound that cannot be checked fails too: a gate must not pass
    without figures."""
    figures = {f"{each.arm}.{each.name}": each for each in found.figures}
    for each in found.figures:  # runs with faults come first
        figures.setdefault(f".{each.name}", each)
    for name, factor, at_most in bounds:
        ratio = figures[name].ratio.value if name in figures else None
        called = name.lstrip(".")
        if ratio is None:
            yield f"{called}: cannot be compared"
        elif at_most and (ratio > factor or figures[name].ratio.at_least):
            yield f"{called}: {plain(ratio, 3)}x, at most {factor:g}x wanted"
        elif not at_most and ratio < factor:
            yield f"{called}: {plain(ratio, 3)}x, at least {factor:g}x wanted"
    if fail_on_change:
        for change in found.changes:
            yield f"{change.name}: was {change.a}, is {change.b}"


def _in_words(found: Comparison, failures: list[str]) -> str:
    from testbed.report.compare import MADE_ALIKE, SAME_VERDICTS  # noqa: PLC0415 - see above

    a, b = (
        f"{name} ({system})" for name, system in zip((found.a, found.b), found.systems, strict=True)
    )
    parts = [columns([("A", a), ("B", b)])]
    if found.obstacles:
        parts.append("\n".join(["Figures cannot be compared:", *_list(found.obstacles)]))
    if found.differences:
        rows = [("DIFFERS", "A", "B"), *((d.what, d.a, d.b) for d in found.differences)]
        parts.append(columns(rows))
    else:
        parts.append(MADE_ALIKE)
    if shown := found.verdicts or found.changes:
        parts.append(columns([("VERDICT", "A", "B"), *((c.name, c.a, c.b) for c in shown)]))
    else:
        parts.append(SAME_VERDICTS)
    if found.figures:
        parts.append(_figures(found))
    if failures:
        parts.append("\n".join(["FAILED:", *_list(failures)]))
    return "\n\n".join(parts)


def _figures(found: Comparison) -> str:
    from testbed.report.compare import ARMS  # noqa: PLC0415 - see above

    rows: list[tuple[str, ...]] = [("FIGURE", "RUNS", "A", "B", "B / A", "95 %")]
    for each in found.figures:
        name = f"{each.name} ({each.unit})"
        runs = f"{ARMS[each.arm]}, {each.runs}"
        values = (value_in_words(each.a), value_in_words(each.b))
        rows.append((name, runs, *values, *_ratio(each.ratio)))
    return f"{columns(rows)}\n{found.how}"


def _ratio(each: Estimate) -> tuple[str, str]:
    if each.value is None:
        return "-", ""
    value = f"{'>= ' if each.at_least else ''}{plain(each.value, 3)}x"
    if each.lo is None:
        return value, "too few runs"
    return value, f"{plain(each.lo, 3)} to {'...' if each.hi is None else plain(each.hi, 3)}"


def _list(lines: list[str] | tuple[str, ...]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
