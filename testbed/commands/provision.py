"""`testbed provision`: bring everything to the hosts of a lab that they need for a run."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from inventory.load import load_lab
from testbed.care.lease import claim_for
from testbed.commands.fleet import LimitOption, report_json, report_text
from testbed.commands.options import InventoryOption, JsonOption
from testbed.fleet import Progress, Tell, exit_code, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.ssh import SshHost
from testbed.provision.install import Plan, make_plan
from testbed.provision.layout import layout
from testbed.wheelhouse import Wheelhouse

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def provision(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give every host its Python environment, our code and its keys, and prove that it works.

    Hosts need python3 and an SSH server, and no internet. A host that has everything is left
    alone. Exit code 0 all hosts are ready, 4 some are not (named, with the command that retries
    just those), 3 none is.
    """
    lab = load_lab(inventory)
    nodes = layout(lab)
    wheelhouse = Wheelhouse()
    began_s = time.monotonic()

    def work(host: SshHost, tell: Tell) -> Plan:
        tell("looking")
        plan = make_plan(lab, host, nodes, wheelhouse, systemd=host.facts.systemd)
        if plan.changes and not dry_run:
            with claim_for(host):
                plan.do(tell)
        return plan

    def describe(plan: Plan) -> str:
        if not plan.changes:
            return "unchanged"
        return ("would get " if dry_run else "got ") + ", ".join(plan.changes)

    def cells(plan: Plan) -> tuple[str, ...]:
        facts = plan.facts
        return describe(plan), f"{facts.system}, {facts.machine}, Python {facts.python}"

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = for_each(hosts, work, Progress("provision", quiet=as_json), describe)
    took_s = time.monotonic() - began_s
    if as_json:
        report_json(outcomes, took_s, lambda plan: _details(plan, dry_run=dry_run))
    else:
        command = ["provision", "--dry-run"] if dry_run else ["provision"]
        report_text(outcomes, ("RESULT", "SYSTEM"), cells, command, inventory)
        ready = sum(outcome.ok for outcome in outcomes)
        if outcomes:
            what = "looked at, nothing was changed," if dry_run else "ready"
            typer.echo(f"{ready} of {len(outcomes)} hosts {what} in {took_s:.1f} s")
    raise typer.Exit(exit_code(outcomes))


def _details(plan: Plan, *, dry_run: bool) -> dict[str, Any]:
    return {
        "changes": list(plan.changes),
        "changed": bool(plan.changes) and not dry_run,
        "system": plan.facts.system,
        "machine": plan.facts.machine,
        "python": plan.facts.python,
    }
