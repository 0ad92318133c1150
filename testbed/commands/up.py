"""`testbed up`: a lab that runs until it is told to end; `testbed down` tells it."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from inventory.load import load_lab
from testbed.commands.options import InventoryOption, JsonOption, print_json, time_option
from testbed.standing.bringup import running_lab
from testbed.standing.operator import operating
from testbed.standing.running_lab import RunningLab, inventory_path

__all__ = ["app"]

POLL_S = 0.2
ADMITTED_S_MAX = 60.0

app = typer.Typer(add_completion=False)


@app.command()
def up(
    inventory: InventoryOption = None,
    every_ms: Annotated[
        float, time_option("--every", "Between a device's readings.", least="100ms", default="5s")
    ] = 5000,
    as_json: JsonOption = False,
) -> None:
    """Deploy a lab, admit its devices and keep it running, for a day at most.

    Ends with Ctrl-C or `testbed down`, and takes everything with it. Meanwhile `testbed device`
    lists, admits, renews and revokes devices. With --json one document tells that it is up.
    """

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    with (
        running_lab(load_lab(inventory), every_ms, say, str(inventory_path(inventory))) as (
            running,
            _,
        ),
        suppress(KeyboardInterrupt),  # SIGTERM is one too
    ):
        say("admitting the devices")
        admitted, missing = asyncio.run(_admissions(running))
        if as_json:
            print_json(_described(running, admitted, missing))
        else:
            for name in missing:
                typer.echo(f"not admitted so far: {name}", err=True)
            typer.echo(
                f"the lab is up with {len(admitted)} devices; Ctrl-C or `testbed down` ends it"
            )
        sys.stdout.flush()
        while True:
            time.sleep(POLL_S)


async def _admissions(running: RunningLab) -> tuple[list[str], list[str]]:
    """(devices that the chain has admitted, those that it has not within `ADMITTED_S_MAX`)."""
    wanted = {n for n, node in running.nodes.items() if node.role in ("mobile", "environment")}
    async with operating(running) as operator:
        deadline_s = time.monotonic() + ADMITTED_S_MAX
        while True:
            admitted = wanted & {name for name, _ in operator.devices}
            if admitted == wanted or time.monotonic() > deadline_s:
                return sorted(admitted), sorted(wanted - admitted)
            await asyncio.sleep(POLL_S)
            await operator.refresh()


def _described(running: RunningLab, admitted: list[str], missing: list[str]) -> dict[str, Any]:
    """What a script needs to go on; nothing secret."""
    return {
        "inventory": running.inventory,
        "home": running.home,
        "pid": running.pid,
        "broker": f"{running.broker_host}:{running.broker_port}",
        "nodes": {name: {"role": n.role, "host": n.host} for name, n in running.nodes.items()},
        "admitted": admitted,
        "missing": missing,
    }
