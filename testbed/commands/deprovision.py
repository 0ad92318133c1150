"""`testbed deprovision`: removes everything of ours from the hosts of a lab."""

from __future__ import annotations

import typer

from inventory.load import load_lab
from testbed.care.lease import claim_for
from testbed.care.restore import remove_all, restore, to_remove
from testbed.commands.fleet import LimitOption, Shown, on_hosts
from testbed.commands.options import CheckOption, InventoryOption, JsonOption
from testbed.fleet import Step, exit_code
from testbed.hosts.port import Host

__all__ = ["deprovision"]


def deprovision(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Restore every host, then remove our services, environment, keys and files from it.

    Exit code 0 nothing of ours is left, 4 something is left on some hosts, 3 on all.
    """

    def work(host: Host, step: Step) -> tuple[str, ...]:
        if check:
            return (*to_remove(host), f"directory {host.root}")
        with claim_for(host):
            cleaned = restore(host, step)
        step("removing files")
        remove_all(host)
        return cleaned

    def cells(found: tuple[str, ...]) -> tuple[str]:
        return (f"would remove {'; '.join(found)}" if check else "nothing left",)

    command = ["deprovision", *(["--check"] if check else [])]
    shown = Shown(("RESULT",), cells, lambda found: {"stopped": list(found)})
    outcomes = on_hosts(command, load_lab(inventory), limit, work, shown, as_json=as_json)
    raise typer.Exit(exit_code(outcomes))
