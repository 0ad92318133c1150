"""`testbed power`: switch a host off and on, by the driver that the inventory names."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import Annotated, Literal

import typer

from inventory.load import load_lab, packaged
from testbed.boards.power import POWER_S_MAX, Power, power_of
from testbed.care.lease import claim_for, require_free
from testbed.commands.options import CheckOption, InventoryOption
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Unreachable

__all__ = ["power"]

OFF_S = 2.0
"""How long `cycle` leaves a host without power. Capacitors supply a board for a moment, so it must
be long enough."""


To = Literal["off", "on", "cycle"]


def power(
    to: Annotated[To, typer.Argument(help="What to do; `cycle` is off, then on.")],
    hosts: Annotated[str, typer.Argument(help="Hosts: pi01,pi02 or role:replica.")],
    inventory: InventoryOption = None,
    check: CheckOption = False,
) -> None:
    """Switch the power of hosts off or on, even while they work.

    A host that does not answer is switched too. Exit code 5 if somebody else has a host.
    """
    lab = load_lab(inventory)
    with ssh_hosts(lab, limited(lab, hosts, given_by="power")) as opened:
        for name, host in opened.items():
            switch = power_of(lab, name, (inventory or packaged("loopback")).absolute())
            if check:
                with suppress(Unreachable):
                    require_free(host)
                typer.echo(f"{name}: power would go {to}")
                continue
            with ExitStack() as stack:
                with suppress(Unreachable):
                    stack.enter_context(claim_for(host, POWER_S_MAX))
                _switch(switch, to)
            typer.echo(f"{name}: power {to}")


def _switch(switch: Power, to: To) -> None:
    try:
        if to != "on":
            switch.off()
        if to == "cycle":
            time.sleep(OFF_S)
    finally:  # an interrupted cycle must leave no host without power
        if to != "off":
            switch.on()
