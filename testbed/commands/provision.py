"""`testbed provision`: installs on the hosts of a lab everything that they need for a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from inventory.load import load_lab
from testbed.care.lease import claim_for
from testbed.commands.fleet import LimitOption, Shown, on_hosts
from testbed.commands.options import CheckOption, InventoryOption, JsonOption
from testbed.fleet import Step, exit_code
from testbed.provision.install import Installation, plan_installation
from testbed.provision.layout import layout
from testbed.wheelhouse import Wheelhouse

if TYPE_CHECKING:  # slow to import
    from testbed.hosts.ssh import SshHost

__all__ = ["provision"]


def provision(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Install a Python environment, our code and keys on every host, and test that they work.

    Hosts need python3 and an SSH server, and no internet. A host that has everything is left alone.
    Exit code 0 all hosts are ready, 4 some are not (they are named, with the command that retries
    only them), 3 none is.
    """
    lab = load_lab(inventory)
    nodes = layout(lab)
    wheelhouse = Wheelhouse()
    began_s = time.monotonic()

    def work(host: SshHost, step: Step) -> Installation:
        step("looking")
        installation = plan_installation(lab, host, nodes, wheelhouse)
        if installation.changes and not check:
            with claim_for(host):
                installation.do(step)
        return installation

    def describe(installation: Installation) -> str:
        if not installation.changes:
            return "unchanged"
        return ("would get " if check else "got ") + ", ".join(installation.changes)

    def cells(installation: Installation) -> tuple[str, ...]:
        facts = installation.facts
        return describe(installation), f"{facts.system}, {facts.machine}, Python {facts.python}"

    command = ["provision", *(["--check"] if check else [])]
    shown = Shown(
        ("RESULT", "SYSTEM"), cells, lambda installation: _details(installation, check=check)
    )
    outcomes = on_hosts(command, lab, limit, work, shown, as_json=as_json)
    if outcomes and not as_json:
        ready = sum(outcome.ok for outcome in outcomes)
        what = "checked, nothing was changed," if check else "ready"
        typer.echo(f"{ready} of {len(outcomes)} hosts {what} in {time.monotonic() - began_s:.1f} s")
    raise typer.Exit(exit_code(outcomes))


def _details(installation: Installation, *, check: bool) -> dict[str, Any]:
    return {
        "changes": list(installation.changes),
        "changed": bool(installation.changes) and not check,
        "system": installation.facts.system,
        "machine": installation.facts.machine,
        "python": installation.facts.python,
    }
