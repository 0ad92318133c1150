"""`testbed doctor`: look at every host and board of a lab, and say how to fix what is wrong."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import typer

from inventory.load import load_lab
from inventory.model import Lab
from testbed.care.quarantine import blocked, without
from testbed.commands.fleet import LimitOption, Shown, show
from testbed.commands.options import InventoryOption, JsonOption, columns
from testbed.doctor import DoctorFinding, Examined, Grade, compare, examine, judge
from testbed.fleet import HostOutcome, Step, exit_code, for_each, problems
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.printed import as_typed
from testbed.wheelhouse import Wheelhouse

__all__ = ["doctor"]

REASON_CHARS_MAX = 120  # the reason in a proposed quarantine; a person may write a longer one

Findings = Sequence[DoctorFinding]
_GRADES: tuple[Grade, ...] = get_args(Grade)


def doctor(
    inventory: InventoryOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Check host keys, identity, disk, temperature, power, clocks, network and boards.

    Changes nothing, with one exception: if a host restarted before a fault there was undone, the
    undo continues now. Exit code 0 all hosts are sound (there may be warnings), 4 some hosts are
    not, 3 none is.
    """
    lab = load_lab(inventory)
    wheelhouse = Wheelhouse()
    began_s = time.monotonic()

    def work(host: Host, step: Step) -> Examined:
        return examine(lab, host, wheelhouse, step)

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = _judged(lab, for_each(hosts, work))
    unfit = {o.host: why for o in outcomes if (why := _unfit(o))}
    if as_json:
        show(outcomes, time.monotonic() - began_s, _SHOWN, ["doctor"], as_json=True)
    else:
        _print(lab, outcomes, unfit, together=limit is None)
    code = exit_code(outcomes)
    if unfit and code == 0:
        code = 3 if len(unfit) == len(outcomes) else 4
    raise typer.Exit(code)


def _judged(lab: Lab, outcomes: Sequence[HostOutcome[Examined]]) -> list[HostOutcome[Findings]]:
    seen = {outcome.host: outcome.value for outcome in outcomes if outcome.value is not None}
    together = compare(lab, seen)

    def findings(outcome: HostOutcome[Examined]) -> HostOutcome[Findings]:
        value = outcome.value
        found = None
        if value is not None:
            found = [*judge(lab, outcome.host, value), *together[outcome.host]]
        return HostOutcome(outcome.host, found, outcome.error, outcome.took_s, outcome.steps_s)

    return [findings(outcome) for outcome in outcomes]


def _unfit(outcome: HostOutcome[Findings]) -> str:
    """Why a host must not take part in a run; empty if it may."""
    if not outcome.ok:
        return outcome.problem.splitlines()[0].removeprefix(f"{outcome.host}: ")
    failed = [f for f in outcome.value or () if f.grade == "failed"]
    return "; ".join(f"{finding.check}: {finding.says}" for finding in failed)


def _print(
    lab: Lab, outcomes: Sequence[HostOutcome[Findings]], unfit: Mapping[str, str], *, together: bool
) -> None:
    if not outcomes:
        typer.echo("nothing to do: no host is reached over SSH")
        return
    found = {outcome.host: outcome.value or () for outcome in outcomes}
    rows: dict[tuple[Grade, str], list[str]] = {}
    for host, findings in found.items():
        well = ", ".join(finding.check for finding in findings if finding.grade == "ok")
        lines: list[tuple[Grade, str]] = [("ok", well)] if well else []
        lines += [(f.grade, f"{f.check}: {f.says}") for f in findings if f.grade != "ok"]
        for row in lines:
            rows.setdefault(row, []).append(host)
    if rows:
        ordered = sorted(rows.items(), key=lambda row: _GRADES.index(row[0][0]))
        typer.echo(columns((", ".join(hosts), *row) for row, hosts in ordered))
    for problem in problems(outcomes):
        typer.echo(as_typed(f"\n{problem}"), err=True)
    waits = {host for host, findings in found.items() if any(f.for_run for f in findings)}
    ready = len(outcomes) - len(waits | set(unfit))
    sound = len(outcomes) - len(unfit)
    typer.echo(f"\nsound: {sound} of {len(outcomes)} hosts; ready for a run: {ready}")
    for line in (*_fixes(found, everyone=together), *_ways_on(lab, unfit)):
        typer.echo(as_typed(line))
    for out in lab.excluded():
        typer.echo(f"left out: {out.name}: {out.reason}")


def _fixes(found: Mapping[str, Findings], *, everyone: bool) -> Iterable[str]:
    """The fixes. Each is printed once for all hosts that it fixes. `everyone`: all hosts of the
    lab."""
    fixes: dict[tuple[str, bool], dict[str, None]] = {}
    for host, findings in found.items():
        for finding in findings:
            if finding.fix and finding.grade != "ok":
                named = fixes.setdefault((finding.fix, finding.on_host), {})
                named[finding.board or host] = None
    for (fix, on_host), named in fixes.items():
        names = list(named)
        only = "" if everyone and names == list(found) else f" --limit {','.join(names)}"
        where = f"on {', '.join(names)}" if on_host else ", ".join(names)
        yield f"fix {where}: {fix.replace(' --limit NAMES', only)}"


def _ways_on(lab: Lab, unfit: Mapping[str, str]) -> Iterable[str]:
    """The commands that leave hosts out, one after the other. Each will be accepted at its turn."""
    gone: list[str] = []
    needed: dict[str, list[str]] = {}
    for host, why in unfit.items():
        if problem := blocked(lab, [*gone, host]):
            needed.setdefault(problem, []).append(host)
            continue
        before = without(lab, gone)
        gone.append(host)
        lower = ["--lower-f"] if without(lab, gone).f < before.f else []
        reason = "".join(c if c.isprintable() else " " for c in why)[:REASON_CHARS_MAX]
        words = shlex.join(["--reason", reason, *lower])
        yield f"to go on without it: testbed quarantine {host} -i FILE {words}"
    for problem, hosts in needed.items():
        yield f"no run without {', '.join(hosts)}: {problem}"


def _details(findings: Findings) -> dict[str, object]:
    return {
        "fit": all(finding.grade != "failed" for finding in findings),
        "ready": not any(f.grade == "failed" or f.for_run for f in findings),
        "findings": [
            {"check": f.check, "grade": f.grade, "says": f.says, "fix": f.fix or None}
            for f in findings
        ],
    }


_SHOWN: Shown[Findings] = Shown(("FINDINGS",), lambda _: ("",), _details)
