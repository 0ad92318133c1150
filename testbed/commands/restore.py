"""`testbed restore`: bring hosts back to a clean state, whatever happened before."""

from __future__ import annotations

import time

import typer

from inventory.load import load_lab
from testbed.care.lease import claim_for
from testbed.care.restore import restore as restore_host
from testbed.commands.fleet import LimitOption, report_json, report_text
from testbed.commands.options import InventoryOption, JsonOption
from testbed.errors import LockedError, RestoreIncompleteError
from testbed.fleet import Progress, Tell, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def restore(
    inventory: InventoryOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Undo faults, stop what runs, remove link rules on every host, and verify it. Repeatable.

    Needs no run. Exit code 0 all clean, 6 some are not (listed), 5 somebody else has the lab.
    """
    lab = load_lab(inventory)
    began_s = time.monotonic()

    def work(host: Host, tell: Tell) -> tuple[str, ...]:
        with claim_for(host):
            return restore_host(host, tell)

    def describe(found: tuple[str, ...]) -> str:
        return f"cleaned: {len(found)} things" if found else "was clean"

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = for_each(hosts, work, Progress("restore", quiet=as_json), describe)
    took_s = time.monotonic() - began_s
    bad = [outcome for outcome in outcomes if not outcome.ok]
    if as_json:
        report_json(outcomes, took_s, lambda found: {"cleaned": list(found)})
    else:
        report_text(outcomes, ("CLEANED",), lambda f: (describe(f),), ["restore"], inventory)
    if bad and all(isinstance(outcome.error, LockedError) for outcome in bad):
        raise typer.Exit(LockedError.exit_code)
    raise typer.Exit(RestoreIncompleteError.exit_code if bad else 0)
