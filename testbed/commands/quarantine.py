"""`testbed quarantine`: leave a host out of every campaign, with the reason, and take it back."""

from __future__ import annotations

from typing import Annotated

import typer

from testbed.care.quarantine import quarantine as quarantine_host
from testbed.care.quarantine import release
from testbed.commands.options import CheckOption, InventoryOption, JsonOption, print_found
from testbed.errors import ConfigurationError

__all__ = ["quarantine"]


def quarantine(
    host: Annotated[str, typer.Argument(help="Name of a host of the inventory.")],
    *,
    inventory: InventoryOption = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; every run shows it.")] = (
        None
    ),
    back: Annotated[bool, typer.Option("--release", help="Take it back into use.")] = False,
    lower_f: Annotated[
        bool,
        typer.Option("--lower-f", help="Do it even if the chain then tolerates fewer faults."),
    ] = False,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write into the inventory file that a host and its boards are left out, or are used again.

    Only this entry of the file changes, and no host is touched. Every run lists the hosts that were
    left out, with the reasons. The command is refused (exit code 2) if the chain would then
    tolerate fewer faults. With --lower-f it is done anyway, and `chain.f` is lowered in the file if
    necessary. --release does not raise `chain.f` again, and prints a note about that. The command
    can be repeated.
    """
    if inventory is None:
        raise ConfigurationError("name the inventory file to change: -i FILE")
    if (reason is None) == (not back):
        raise ConfigurationError("give --reason TEXT, or --release")
    if back:
        change = release(inventory, host, check=check)
    else:
        change = quarantine_host(inventory, host, reason or "", lower_f=lower_f, check=check)
    found = {
        "ok": True,
        "host": host,
        "state": "active" if back else "quarantined",
        "changed": change.changed and not check,
        "n": change.after.n,
        "f": change.after.f,
    }
    what = "back in use" if back else f"quarantined: {reason}"
    what = f"would be {what}" if check else what
    text = f"{host}: {what}{'' if change.changed else ' (as before)'}; {change.after}"
    could = max(0, (change.after.n - 1) // 3)
    if back and could > change.after.f:
        stated = f"{inventory} states chain.f: {change.after.f}"
        text += f"\n{stated}; without that, f would be {could}"
    print_found(found, text, as_json=as_json)
