"""`testbed up`: a lab that runs until `testbed down` ends it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from inventory.load import load_lab
from testbed.commands.deployable import look_before
from testbed.commands.options import (
    CheckOption,
    InventoryOption,
    JsonOption,
    print_json,
    time_option,
)
from testbed.errors import LabFault
from testbed.printed import as_typed
from testbed.standing.bringup import running_lab
from testbed.standing.operator import operating
from testbed.standing.running_lab import RunningLab, inventory_path
from testbed.standing.state import look, without_votes

__all__ = ["up"]

POLL_S = 0.2
LOOK_S = 5.0
ADMITTED_S_MAX = 60.0
LOG_FILE = "up.log"
IN_BACKGROUND = "TESTBED_IN_BACKGROUND"  # set for the process that --detach starts


def up(
    inventory: InventoryOption = None,
    every_ms: Annotated[
        float,
        time_option(
            "--every", "Time between two readings of a device.", least="100ms", default="5s"
        ),
    ] = 5000,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it is up; it runs in the background.")
    ] = False,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy a lab, admit its devices and keep it running, for a day at most.

    Ctrl-C or `testbed down` ends it and removes everything. Meanwhile `testbed device` lists,
    admits, renews and revokes devices, `testbed status` shows its processes, `testbed collect`
    makes a result bundle. With --json it prints one JSON document when the lab is up.
    """
    if check:
        raise typer.Exit(look_before(["up"], load_lab(inventory), as_json=as_json))
    if detach:
        _report(_in_background(sys.argv[1:]), as_json=as_json)
        return

    in_background = os.environ.pop(IN_BACKGROUND, None) is not None

    def say(text: str) -> None:
        typer.echo(text, err=as_json or in_background)

    standing = running_lab(load_lab(inventory), every_ms, say, str(inventory_path(inventory)))
    with standing as (running, _), suppress(KeyboardInterrupt):  # SIGTERM raises this too
        say("admitting the devices")
        admitted, missing = asyncio.run(_admissions(running))
        found = _described(running, admitted, missing)
        if in_background:
            _leave_the_terminal(running, found)
        else:
            _report(found, as_json=as_json)
        _watch(running, say)


def _watch(running: RunningLab, say: Callable[[str], None]) -> None:
    """Waits until the end, and says when replicas have lost their ledgers."""
    reported = ""
    while True:
        time.sleep(LOOK_S)
        with suppress(LabFault):
            lost = without_votes(look(running))
            if lost not in ("", reported):
                say(as_typed(lost))
            reported = lost


def _in_background(arguments: list[str]) -> dict[str, Any]:
    """Runs the same command in a session of its own. Returns its description when it is up."""
    words = [word for word in arguments if word not in ("--detach", "--json")]
    child = subprocess.Popen(
        [sys.executable, "-m", "testbed.cli", *words],
        env={**os.environ, IN_BACKGROUND: "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        said = child.stdout.read()  # it closes its end of the pipe when it is up
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    if not said:
        raise typer.Exit(child.wait())  # it has printed the reason
    found: dict[str, Any] = json.loads(said)
    return found


def _leave_the_terminal(running: RunningLab, found: dict[str, Any]) -> None:
    print_json(found)
    sys.stdout.flush()
    with (Path(running.home) / LOG_FILE).open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def _report(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        for name in found["missing"]:
            typer.echo(f"not admitted so far: {name}", err=True)
        count = len(found["admitted"])
        typer.echo(as_typed(f"the lab is up with {count} devices; `testbed down -i FILE` ends it"))
    sys.stdout.flush()


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
    """The description of the lab for scripts. It contains nothing secret."""
    return {
        "inventory": running.inventory,
        "home": running.home,
        "pid": running.pid,
        "broker": f"{running.broker_host}:{running.broker_port}",
        "nodes": {name: {"role": n.role, "host": n.host} for name, n in running.nodes.items()},
        "admitted": admitted,
        "missing": missing,
    }
