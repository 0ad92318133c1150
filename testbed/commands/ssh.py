"""`testbed ssh`: a shell on a host, or one command, logged in as the inventory says."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.commands.options import InventoryOption
from testbed.errors import ConfigurationError
from testbed.hosts.opening import limited
from testbed.hosts.openssh import ssh_argv

__all__ = ["ssh"]


def ssh(
    host: Annotated[str, typer.Argument(help="Name of a host of the inventory.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="The command to run; default: a shell."),
    ] = None,
    inventory: InventoryOption = None,
) -> None:
    """Log in to a host with OpenSSH's client, using the keys and jump hosts of the inventory.

    The exit code is that of the command, or 255 if OpenSSH could not log in.
    """
    lab = load_lab(inventory)
    names = limited(lab, host, given_by="ssh")
    if len(names) != 1:
        raise ConfigurationError(f"{host} chooses {', '.join(names)}; name one host")
    argv = ssh_argv(lab, names[0])
    argv += [shlex.join(command)] if command else []
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - ssh takes over the user's terminal
    except FileNotFoundError as error:
        fix = "sudo apt-get install openssh-client"
        raise ConfigurationError(f"no program ssh here\n  fix: {fix}") from error
