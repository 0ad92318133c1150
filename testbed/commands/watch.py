"""`testbed watch`: the progress of a campaign that another terminal runs."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from testbed.bundle import Bundle, RunFolder, find_bundle
from testbed.campaign.live import Live, read_live
from testbed.campaign.live_text import live_lines
from testbed.campaign.screen import in_place
from testbed.commands.options import JsonOption, print_json
from testbed.errors import ConfigurationError
from testbed.terminal import unguarded

__all__ = ["watch"]


POLL_S = 0.25
WIDTH, HEIGHT = 100, 200  # if there is no terminal
BETWEEN = Live(campaign="", step="opening hosts, or judging")  # there is no run just now


def watch(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="The bundle that is being written.")
    ] = "last",
    *,
    once: Annotated[bool, typer.Option("--once", help="Show the state now, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Follow a campaign that `testbed run` or `resume` makes, until its verdict.

    It reads a file of the bundle and touches nothing else: Ctrl-C ends only the view. With --json,
    or without a terminal, it shows the state of the campaign now, and ends. Exit code 3 if the
    campaign was cut off: its process was killed.
    """
    found = find_bundle(bundle)
    found.require_not_cut_off()
    if not found.is_being_written:
        again = f"`testbed report {found.typed}` shows what came of it"
        raise ConfigurationError(f"{found.path}: nothing goes on here; {again}")
    now = read_live(found.path) or BETWEEN
    if as_json:
        print_json(msgspec.to_builtins(now))
    elif once or not sys.stdout.isatty():
        for line in live_lines(now, WIDTH, HEIGHT):
            typer.echo(line.plain)
    else:
        _follow(found, now)


def _follow(bundle: Bundle, first: Live) -> None:
    newest = [first]
    with in_place(Console(file=unguarded(sys.stdout)), lambda: newest[0]):
        while bundle.is_being_written:
            newest[0] = read_live(bundle.path) or newest[0]
            time.sleep(POLL_S)
    bundle.require_not_cut_off()
    typer.echo(f"{bundle.name} has ended")
    for run in bundle.runs:
        typer.echo(f"{run.entry.path}: {run.entry.state}{_verdict(run)}")


def _verdict(run: RunFolder) -> str:
    """The verdict of a judged run."""
    from testbed.report.over_runs import read_run_summary  # noqa: PLC0415 - loads statistics

    try:
        return f", {read_run_summary(run).verdict}"
    except ConfigurationError:
        return ""
