"""`testbed deprovision`: leave nothing of ours on the hosts of a lab."""

from __future__ import annotations

import time

import typer

from inventory.load import load_lab
from testbed.care.lease import claim_for
from testbed.care.restore import remove_all, restore
from testbed.commands.fleet import LimitOption, report_json, report_text
from testbed.commands.options import InventoryOption, JsonOption
from testbed.fleet import Progress, Tell, exit_code, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def deprovision(
    inventory: InventoryOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Restore every host, then remove our services, environment, keys and files from it.

    Exit code 0 nothing of ours is left, 4 on some hosts it is, 3 on all.
    """
    lab = load_lab(inventory)
    began_s = time.monotonic()

    def work(host: Host, tell: Tell) -> tuple[str, ...]:
        with claim_for(host):
            cleaned = restore(host, tell)
        tell("removing files")
        remove_all(host)
        return cleaned

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = for_each(hosts, work, Progress("deprovision", quiet=as_json))
    if as_json:
        report_json(outcomes, time.monotonic() - began_s, lambda found: {"stopped": list(found)})
    else:
        report_text(outcomes, ("RESULT",), lambda _: ("nothing left",), ["deprovision"], inventory)
    raise typer.Exit(exit_code(outcomes))
