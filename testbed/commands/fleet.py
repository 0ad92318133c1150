"""What commands that work on many hosts share: `--limit`, the table, what failed, how to retry."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from testbed.commands.options import columns, print_json
from testbed.fleet import Outcome, problems, retry

__all__ = ["LimitOption", "report_json", "report_text"]

LimitOption = Annotated[
    str | None, typer.Option("--limit", metavar="HOSTS", help="Only these, separated by commas.")
]

T = TypeVar("T")


def report_json(
    outcomes: Sequence[Outcome[T]], took_s: float, details: Callable[[T], dict[str, Any]]
) -> None:
    """Every host with `ok`, `problem`, seconds, and what the command has to say."""
    print_json(
        {
            "ok": all(outcome.ok for outcome in outcomes),
            "took_s": round(took_s, 3),
            "hosts": {
                outcome.host: {
                    "ok": outcome.ok,
                    "problem": outcome.problem or None,
                    "took_s": round(outcome.took_s, 3),
                    "steps_s": dict(outcome.steps_s),
                    **(details(outcome.value) if outcome.value is not None else {}),
                }
                for outcome in outcomes
            },
        }
    )


def report_text(
    outcomes: Sequence[Outcome[T]],
    heading: Sequence[str],
    cells: Callable[[T], Sequence[str]],
    command: Sequence[str],
    inventory: Path | None,
    *,
    together: bool = False,
) -> None:
    """One row per host; failures below it, hosts that failed alike together, and the way out:
    for just those that failed, or as it was if it is done to all or none (`together`)."""
    rows: list[Sequence[str]] = [("HOST", *heading, "SECONDS")]
    for outcome in outcomes:
        failed = ["FAILED", *["-"] * (len(heading) - 1)]
        told = cells(outcome.value) if outcome.value is not None else failed
        steps = ", ".join(f"{what} {seconds:.1f}" for what, seconds in outcome.steps_s)
        rows.append((outcome.host, *told, f"{outcome.took_s:.1f} ({steps})"))
    typer.echo(columns(rows) if outcomes else "nothing to do: no host is reached over SSH")
    for problem in problems(outcomes):
        typer.echo(f"\n{problem}", err=True)
    bad = [outcome.host for outcome in outcomes if not outcome.ok]
    if bad:
        again = [*command, *(["-i", str(inventory)] if inventory else [])]
        way = shlex.join(["testbed", *again]) if together else retry(again, bad)
        typer.echo(f"\nretry: {way}", err=True)
