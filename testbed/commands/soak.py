"""`testbed soak`: brings up a lab, disturbs it for a while, and judges it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from testbed.bundle import RUNS_DIR
from testbed.commands.options import JsonOption, OutOption, columns, print_json, say, time_option
from testbed.soak.disk import enter_own_disk, lacking, own_disk
from testbed.soak.judge import SoakResult
from testbed.soak.soak import run_soak

__all__ = ["soak"]

GROWTH_SHOWN_MAX = 5


def soak(
    for_ms: Annotated[
        float, time_option("--for", "How long it lasts.", least="10s", most="1d", default="2m")
    ] = 120_000,
    seed: Annotated[int, typer.Option(min=0, help="Decides the disturbances and their times.")] = 1,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a lab on this machine, use it, disturb it, and check that nothing was lost.

    4 replicas, 2 gateways, 5 devices, 2 boards. Disturbances: kill -9, SIGSTOP, all replicas at
    once, a host without power, a full disk (root only). Meanwhile an operator admits, renews and
    revokes devices. Exit code 1 if something acknowledged was lost, doubled or wrong; if a process
    was given up or does not come back; if a command failed by itself; or if a process was left
    running.
    """
    with own_disk(for_ms / 1000) as disk:
        if disk is None and not lacking():
            enter_own_disk()
        result = run_soak(seed, for_ms / 1000, out or RUNS_DIR, disk, say)
    if as_json:
        print_json(msgspec.to_builtins(result))
    else:
        _print(result)
    if result.problems:
        raise typer.Exit(1)


def _print(result: SoakResult) -> None:
    for reason in result.skipped:
        typer.echo(f"skipped: {reason}")
    typer.echo(f"bundle: {result.bundle}")
    typer.echo(
        f"{result.duration_s:.0f} s, {result.blocks} blocks, {result.records} records, "
        f"{result.commands} commands, {result.restarts} restarts; {result.acknowledged}; "
        f"{result.board_readings} readings acknowledged to boards\n"
    )
    rows: list[tuple[object, ...]] = [("DISTURBANCE", "TIMES", "NO BLOCKS FOR s", "LONGEST s")]
    rows += [(each.kind, each.times, each.total_s, each.longest_s) for each in result.away]
    typer.echo(columns(rows))
    rows = [("GREW MOST", "MEMORY MB", "FILES", "DISK MB")]
    rows += [(e.name, e.memory_mb, e.files, e.disk_mb) for e in result.growth[:GROWTH_SHOWN_MAX]]
    typer.echo("\n" + columns(rows))
    typer.echo("\nnothing lost, doubled or wrong" if not result.problems else "")
    for problem in result.problems:
        typer.echo(problem, err=True)
