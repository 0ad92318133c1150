"""`testbed unlock`: releases hosts that you locked, or takes over those of others."""

from __future__ import annotations

from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.care.lease import break_lease, holder
from testbed.care.restore import restore
from testbed.commands.fleet import (
    LEASES_SHOWN,
    LimitOption,
    lease_exit_code,
    on_hosts,
)
from testbed.commands.options import CheckOption, InventoryOption, JsonOption
from testbed.errors import LockedError
from testbed.fleet import Step
from testbed.hosts.port import Host

__all__ = ["unlock"]


def unlock(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    takeover: Annotated[
        bool,
        typer.Option(
            "--takeover", help="Also release hosts that others locked; they are restored first."
        ),
    ] = False,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Release hosts that you locked. Exit code 5 if somebody else has one; the name is shown."""

    def work(host: Host, step: Step) -> str:
        step("looking")
        present = holder(host)
        if present is None:
            return "was free"
        theirs = not (present.is_mine or present.is_gone)
        if theirs and not takeover:
            raise LockedError(f"{host.name} is taken by {present}")
        if check:
            return f"would be taken from {present}"
        if takeover:
            restore(host, step)
        break_lease(host, takeover=takeover)
        return f"taken from {present.who}" if theirs else "given back"

    options = {"--takeover": takeover, "--check": check}
    command = ["unlock", *(name for name, given in options.items() if given)]
    outcomes = on_hosts(command, load_lab(inventory), limit, work, LEASES_SHOWN, as_json=as_json)
    raise typer.Exit(lease_exit_code(outcomes))
