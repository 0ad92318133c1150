"""`testbed restore`: bring hosts back to a clean state, after any trouble."""

from __future__ import annotations

import typer

from inventory.load import load_lab
from testbed.care.lease import claim_for
from testbed.care.restore import restore as restore_host
from testbed.care.restore import to_remove
from testbed.commands.fleet import LimitOption, Shown, on_hosts
from testbed.commands.options import CheckOption, InventoryOption, JsonOption
from testbed.errors import LockedError, RestoreIncompleteError
from testbed.fleet import Step
from testbed.hosts.port import Host

__all__ = ["restore"]


def restore(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Undo faults, stop our processes and remove link rules on every host, and verify the result.

    It can be repeated, and it needs no run. It removes only things with our mark, and names them.
    Exit code 0 all hosts are clean, 6 some are not, or could not be checked (they are listed), 5
    somebody else has the lab.
    """

    def work(host: Host, step: Step) -> tuple[str, ...]:
        if check:
            return to_remove(host)
        with claim_for(host):
            return restore_host(host, step)

    def cells(found: tuple[str, ...]) -> tuple[str]:
        what = "would remove" if check else "removed"
        return (f"{what} {'; '.join(found)}" if found else "is clean",)

    command = ["restore", *(["--check"] if check else [])]
    shown = Shown(("RESULT",), cells, lambda found: {"cleaned": list(found)})
    outcomes = on_hosts(command, load_lab(inventory), limit, work, shown, as_json=as_json)
    bad = [outcome for outcome in outcomes if not outcome.ok]
    if bad and all(isinstance(outcome.error, LockedError) for outcome in bad):
        raise typer.Exit(LockedError.exit_code)
    raise typer.Exit(RestoreIncompleteError.exit_code if bad else 0)
