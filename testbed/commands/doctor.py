"""`testbed doctor`: look at every host and board of a lab, and say how to mend what is wrong."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from inventory.load import load_lab
from inventory.model import Lab
from testbed.care.quarantine import without
from testbed.commands.fleet import LimitOption, report_json
from testbed.commands.options import InventoryOption, JsonOption, columns
from testbed.doctor import Finding, examine, judge
from testbed.fleet import Outcome, Progress, Tell, exit_code, for_each, problems
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.wheelhouse import Wheelhouse

__all__ = ["app"]

REASON_CHARS_MAX = 120  # of a proposed quarantine: a person may say more

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    inventory: InventoryOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Check host keys, identity, disk, temperature, power, clocks, network and boards, live.

    Changes nothing, but undos that a restart kept waiting go on. Exit code 0 fit for a run (there
    may be warnings), 4 some hosts are not, 3 none is.
    """
    lab = load_lab(inventory)
    wheelhouse = Wheelhouse()
    began_s = time.monotonic()

    def work(host: Host, tell: Tell) -> list[Finding]:
        return list(judge(lab, host.name, examine(lab, host, wheelhouse, tell)))

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = for_each(hosts, work, Progress("doctor", quiet=True))
    unfit = {o.host: why for o in outcomes if (why := _unfit(o))}
    sick = [outcome.host for outcome in outcomes if outcome.ok and outcome.host in unfit]
    if as_json:
        report_json(outcomes, time.monotonic() - began_s, _details)
    else:
        _print({outcome.host: outcome.value or () for outcome in outcomes}, inventory)
        for problem in problems(outcomes):
            typer.echo(f"\n{problem}", err=True)
        typer.echo(f"\n{len(outcomes) - len(unfit)} of {len(outcomes)} hosts fit for a run")
        _tell_ways_on(lab, unfit, inventory)
        for out in lab.excluded():
            typer.echo(f"left out: {out.name}: {out.reason}")
    code = exit_code(outcomes)
    if sick and code == 0:
        code = 3 if len(sick) == len(outcomes) else 4
    raise typer.Exit(code)


def _unfit(outcome: Outcome[list[Finding]]) -> str:
    """Why a host must not take part in a run, or nothing."""
    if not outcome.ok:
        return outcome.problem.splitlines()[0].removeprefix(f"{outcome.host}: ")
    failed = [f for f in outcome.value or () if f.grade == "failed"]
    return "; ".join(f"{finding.check}: {finding.says}" for finding in failed)


def _tell_ways_on(lab: Lab, unfit: Mapping[str, str], inventory: Path | None) -> None:
    """The commands that leave hosts out, one after the other: each as it will be accepted then."""
    gone: list[str] = []
    where = ["-i", str(inventory)] if inventory else []
    for host, why in unfit.items():
        before = without(lab, gone)
        gone.append(host)
        lower = ["--lower-f"] if without(lab, gone).f < before.f else []
        reason = "".join(c if c.isprintable() else " " for c in why)[:REASON_CHARS_MAX]
        argv = ["testbed", "quarantine", host, *where, "--reason", reason, *lower]
        typer.echo(f"to go on without it: {shlex.join(argv)}")


def _print(found: dict[str, Sequence[Finding]], inventory: Path | None) -> None:
    rows: list[tuple[str, ...]] = []
    for host, findings in found.items():
        well = [finding.check for finding in findings if finding.grade == "ok"]
        if well:
            rows.append((host, "ok", ", ".join(well)))
        rows += [
            (host, f.grade, f"{f.check}: {f.says}" + _fix(f, inventory))
            for f in findings
            if f.grade != "ok"
        ]
    if rows:
        typer.echo(columns(rows))


def _fix(finding: Finding, inventory: Path | None) -> str:
    """What mends it; a command of ours as it can be copied."""
    ours = finding.fix.startswith("testbed ") and inventory is not None
    where = f" -i {shlex.quote(str(inventory))}" if ours else ""
    return f"; fix: {finding.fix}{where}" if finding.fix else ""


def _details(findings: list[Finding]) -> dict[str, object]:
    return {
        "fit": all(finding.grade != "failed" for finding in findings),
        "findings": [
            {"check": f.check, "grade": f.grade, "says": f.says, "fix": f.fix or None}
            for f in findings
        ],
    }
