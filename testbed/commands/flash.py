"""`testbed flash`: write firmware and a new key to sensor boards."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from inventory.load import load_lab, packaged
from testbed.boards.flash import flash, is_plugged
from testbed.boards.micropython import BoardPlace
from testbed.boards.power import board_reset
from testbed.care.lease import Lease
from testbed.commands.fleet import report_json, report_text
from testbed.commands.options import InventoryOption, JsonOption
from testbed.errors import ConfigurationError
from testbed.fleet import Progress, exit_code, for_each
from testbed.hosts.opening import ssh_hosts
from testbed.provision.ready import interpreters

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command(name="flash")
def flash_boards(
    inventory: InventoryOption = None,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="BOARDS", help="Only these.")
    ] = None,
    rename: Annotated[
        bool, typer.Option("--rename", help="Also a board that has another's name so far.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find each board by its identity, copy firmware and a new key to it, verify both.

    Keys are made on the boards' hosts and stay there. Boards that are processes (`board: unix`
    without `match`) need none: a run makes them. Hosts must be provisioned. A board that runs
    our firmware has to be restarted while this waits, if nothing here can do it. A board that
    says it is another one of this inventory is left as it is.
    """
    lab = load_lab(inventory)
    plugged = {n: b for n, b in lab.boards_in_use().items() if is_plugged(b)}
    have, wanted = ", ".join(plugged) or "none", list(plugged)
    if limit is not None:
        wanted = [name for part in limit.split(",") if (name := part.strip())]
        if not wanted:
            raise ConfigurationError(f"--limit {limit!r} names no board; there are: {have}")
    for name in wanted:
        if name not in plugged:
            raise ConfigurationError(f"--limit: {name} is no plugged board; there are: {have}")
    path = (inventory or packaged("loopback")).absolute()
    began_s = time.monotonic()
    with ssh_hosts(lab, dict.fromkeys(plugged[name].host for name in wanted)) as hosts:
        python = interpreters(hosts)
        places = {
            name: BoardPlace(
                name,
                plugged[name],
                hosts[plugged[name].host],
                python[plugged[name].host],
                board_reset(lab, name, path),
                frozenset() if rename else frozenset(plugged) - {name},
            )
            for name in wanted
        }
        with Lease(hosts):
            progress = Progress("flash", quiet=as_json)
            outcomes = for_each(places, flash, progress, lambda board: board.greeting)
    if as_json:
        report_json(
            outcomes,
            time.monotonic() - began_s,
            lambda b: {"port": b.port, "greeting": b.greeting, **b.flashed},
        )
    else:
        report_text(outcomes, ("GREETING",), lambda b: (b.greeting,), ["flash"], inventory)
    raise typer.Exit(exit_code(outcomes))
