"""`testbed collect`: makes a result bundle of a running lab, which continues."""

from __future__ import annotations

import typer

from testbed.bundle import RUNS_DIR
from testbed.commands.options import (
    JsonOption,
    OutOption,
    RunningOption,
    print_json,
    say,
    say_which,
)
from testbed.report.derive import rebuild
from testbed.standing.bundle import collect_running
from testbed.standing.running_lab import find_running

__all__ = ["collect"]


def collect(
    inventory: RunningOption = None, out: OutOption = None, as_json: JsonOption = False
) -> None:
    """Write a result bundle of a lab that is up: logs, ledgers, verdicts and a report.

    The lab continues. `testbed ledger verify` and `testbed report` work on the bundle. Exit code 1
    if a safety property does not hold.
    """
    running = find_running(inventory)
    say_which(running, inventory)
    bundle = collect_running(running, out or RUNS_DIR, say)
    summary = rebuild(bundle)
    broken = [each.name for each in summary.properties if each.held is False]
    unknown = [each for each in summary.properties if each.held is None]
    if as_json:
        print_json(
            {
                "bundle": str(bundle.path),
                "blocks": summary.blocks,
                "records": summary.records,
                "broken": broken,
                "not_judged": [each.name for each in unknown],
            }
        )
    else:
        typer.echo(f"{bundle.path}: {summary.blocks} blocks, {summary.records} records")
        for name in broken:
            typer.echo(f"broken: {name}", err=True)
        for each in unknown:
            typer.echo(f"not judged: {each.name}: {each.detail}", err=True)
    if broken:
        raise typer.Exit(1)
