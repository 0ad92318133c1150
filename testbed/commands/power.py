"""`testbed power`: switch a host off and on, by the driver that the inventory names."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from inventory.load import load_lab, packaged
from testbed.boards.power import power_of
from testbed.commands.options import InventoryOption
from testbed.hosts.opening import limited

__all__ = ["OFF_S", "app"]

OFF_S = 2.0
"""How long `cycle` leaves a host without power: capacitors hold a board up for a while."""

app = typer.Typer(add_completion=False)


class To(StrEnum):
    """What a power switch can do."""

    OFF = "off"
    ON = "on"
    CYCLE = "cycle"


@app.command()
def power(
    to: To,
    host: Annotated[str, typer.Argument(help="Name of a host of the inventory.")],
    inventory: InventoryOption = None,
) -> None:
    """Cut a host's power, in the middle of whatever it does, or bring it back."""
    lab = load_lab(inventory)
    for name in limited(lab, host, given_by="power"):
        switch = power_of(lab, name, (inventory or packaged("loopback")).absolute())
        try:
            if to is not To.ON:
                switch.off()
            if to is To.CYCLE:
                time.sleep(OFF_S)
        finally:  # whoever interrupts a cycle wants no dark host
            if to is not To.OFF:
                switch.on()
        typer.echo(f"{name}: power {to.value}")
