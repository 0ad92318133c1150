"""`testbed provision`: bring everything to the hosts of a lab that they need for a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.commands.options import InventoryOption, JsonOption, columns, print_json
from testbed.fleet import Outcome, Progress, Tell, exit_code, for_each, problems, retry
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.ssh import SshHost
from testbed.provision.install import Plan, make_plan
from testbed.provision.layout import layout
from testbed.wheelhouse import Wheelhouse

__all__ = ["app"]

Description = Callable[[Plan], str]

app = typer.Typer(add_completion=False)

LimitOption = Annotated[
    str | None, typer.Option("--limit", metavar="HOSTS", help="Only these, separated by commas.")
]


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
            plan.do(tell)
        return plan

    def describe(plan: Plan) -> str:
        if not plan.changes:
            return "unchanged"
        return ("would get " if dry_run else "got ") + ", ".join(plan.changes)

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = for_each(hosts, work, Progress("provision", quiet=as_json), describe)
    took_s = time.monotonic() - began_s
    if as_json:
        print_json(_report(outcomes, took_s, dry_run=dry_run))
    else:
        _print(outcomes, describe, took_s, inventory)
    raise typer.Exit(exit_code(outcomes))


def _report(
    outcomes: Sequence[Outcome[Plan]], took_s: float, *, dry_run: bool
) -> dict[str, object]:
    return {
        "ok": all(outcome.ok for outcome in outcomes),
        "dry_run": dry_run,
        "took_s": round(took_s, 3),
        "hosts": {
            outcome.host: {
                "ok": outcome.ok,
                "problem": outcome.problem or None,
                "changes": list(outcome.value.changes) if outcome.value else [],
                "system": outcome.value.facts.system if outcome.value else None,
                "machine": outcome.value.facts.machine if outcome.value else None,
                "python": outcome.value.facts.python if outcome.value else None,
                "took_s": round(outcome.took_s, 3),
                "steps_s": dict(outcome.steps_s),
            }
            for outcome in outcomes
        },
    }


def _print(
    outcomes: Sequence[Outcome[Plan]], describe: Description, took_s: float, inventory: Path | None
) -> None:
    rows: list[tuple[str, ...]] = [("HOST", "SYSTEM", "PYTHON", "RESULT", "SECONDS")]
    for outcome in outcomes:
        facts = outcome.value.facts if outcome.value else None
        steps = ", ".join(f"{what} {seconds:.1f}" for what, seconds in outcome.steps_s)
        rows.append(
            (
                outcome.host,
                f"{facts.system}, {facts.machine}" if facts else "-",
                facts.python if facts else "-",
                describe(outcome.value) if outcome.value else "FAILED",
                f"{outcome.took_s:.1f} ({steps})",
            )
        )
    typer.echo(columns(rows))
    failed = [outcome for outcome in outcomes if not outcome.ok]
    typer.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} hosts ready in {took_s:.1f} s")
    for problem in problems(outcomes):
        typer.echo(f"\n{problem}", err=True)
    if failed:
        again = ["provision", *(["-i", str(inventory)] if inventory else [])]
        typer.echo(f"\nretry: {retry(again, [outcome.host for outcome in failed])}", err=True)
