"""`testbed console`: a terminal on a board's serial line, even if its port is on another host."""

from __future__ import annotations

import shlex
import subprocess
from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.boards.flash import is_plugged
from testbed.boards.ports import find_board
from testbed.care.lease import Lease
from testbed.commands.options import InventoryOption
from testbed.errors import ConfigurationError
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.openssh import ssh_argv
from testbed.provision.ready import interpreters

__all__ = ["console"]

EXIT_KEY = 0x1D  # Ctrl-]


def console(
    board: Annotated[str, typer.Argument(help="Name of a board of the inventory.")],
    inventory: InventoryOption = None,
) -> None:
    """Talk with a board over its serial line.

    Ctrl-] ends it. The host is locked meanwhile, so no run can begin. During a run this command is
    refused (exit code 5). No other program can use the port meanwhile. Hosts must be provisioned.
    """
    lab = load_lab(inventory)
    plugged = {name: one for name, one in lab.boards_in_use().items() if is_plugged(one)}
    if board not in plugged:
        have = ", ".join(plugged) or "none"
        raise ConfigurationError(
            f"{board} is no plugged board of this inventory; there are: {have}"
        )
    place = plugged[board]
    with ssh_hosts(lab, [place.host]) as hosts, Lease(hosts) as lease:
        port = find_board(hosts[place.host], board, place)
        python = interpreters(hosts)[place.host]
        terminal = [python, "-I", "-m", "serial.tools.miniterm", "--raw", "--exit-char"]
        terminal += [str(EXIT_KEY), port.path, str(place.line.baud)]
        argv = [*ssh_argv(lab, place.host, "-t"), shlex.join(terminal)]
        with subprocess.Popen(argv) as running:
            lease.on_lost = lambda _: running.terminate()
            code = running.wait()
    raise typer.Exit(code)
