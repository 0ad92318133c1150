"""`testbed flash`: write firmware and a new key to sensor boards."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Annotated

import typer

from inventory.load import load_lab, packaged
from inventory.model import Lab
from inventory.selection import board_labels, chosen
from testbed.boards.flash import FlashedBoard, is_plugged
from testbed.boards.flash import flash as flash_board
from testbed.boards.micropython import BoardPlace
from testbed.boards.ports import find_board
from testbed.boards.power import board_reset
from testbed.care.lease import Lease
from testbed.commands.fleet import Shown, show
from testbed.commands.options import CheckOption, InventoryOption, JsonOption
from testbed.errors import ConfigurationError
from testbed.fleet import FleetTable, Step, exit_code, for_each
from testbed.hosts.opening import ssh_hosts
from testbed.provision.ready import interpreters

__all__ = ["flash"]


def flash(
    inventory: InventoryOption = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit", metavar="BOARDS", help="Only these: th01,th02 or kind:esp32 or host:pi02."
        ),
    ] = None,
    rename: Annotated[
        bool,
        typer.Option("--rename", help="Flash a board even if it has the name of another board."),
    ] = False,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find each board by its identity, copy firmware and a new key to it, and verify both.

    Keys are made on the boards' hosts and stay there. Boards that are processes (`board: unix`
    without `match`) are not flashed: each run makes them. Hosts must be provisioned. A board that
    runs our firmware already must be restarted first: if nothing here can do that, the command asks
    you to press its reset, and waits. A board that has the name of another board of this inventory
    is not flashed, unless you give --rename.
    """
    lab = load_lab(inventory)
    plugged = {n: b for n, b in lab.boards_in_use().items() if is_plugged(b)}
    wanted = list(plugged) if limit is None else _chosen(lab, list(plugged), limit)
    path = (inventory or packaged("loopback")).absolute()
    began_s = time.monotonic()

    def work(place: BoardPlace, step: Step) -> FlashedBoard:
        if not check:
            return flash_board(place, step)
        port = find_board(place.host, place.name, place.board)
        return FlashedBoard(port.path, f"would be flashed at {port.path}", None)

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
        with ExitStack() as stack:
            if not check:
                stack.enter_context(Lease(hosts))
            progress = FleetTable("flash", quiet=as_json)
            outcomes = for_each(places, work, progress, lambda board: board.greeting)
    shown: Shown[FlashedBoard] = Shown(
        ("RESULT",),
        lambda board: (board.greeting,),
        lambda board: {"port": board.port, "greeting": board.greeting, **(board.flashed or {})},
        each="BOARD",
    )
    command = ["flash", *(["--check"] if check else [])]
    show(outcomes, time.monotonic() - began_s, shown, command, as_json=as_json)
    raise typer.Exit(exit_code(outcomes))


def _chosen(lab: Lab, plugged: list[str], limit: str) -> list[str]:
    """Raises ConfigurationError."""
    have = ", ".join(plugged) or "none"
    names, unknown = chosen(limit, {name: board_labels(lab, name) for name in plugged})
    if unknown is not None:
        raise ConfigurationError(f"--limit: {unknown} is no plugged board; there are: {have}")
    if not names:
        raise ConfigurationError(f"--limit {limit!r} names no board; there are: {have}")
    return names
