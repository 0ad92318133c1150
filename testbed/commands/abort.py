"""`testbed abort`: lists the faults that are active in a run, and ends one before its time."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from testbed.bundle import find_bundle
from testbed.campaign.abort import abort_fault, active_faults, run_under_way
from testbed.commands.options import CheckOption, JsonOption, columns, print_found

__all__ = ["abort"]


def abort(
    fault: Annotated[
        str | None,
        typer.Argument(help="A fault or event of the list. Without it, the list is printed."),
    ] = None,
    bundle: Annotated[
        str, typer.Option("--run", metavar="BUNDLE", help="The bundle that is being written.")
    ] = "last",
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the faults that are active in the current run, or heal one now.

    The run continues, but counts as invalid, because it differs from the plan. `testbed restore`
    undoes the faults of a dead run.
    """
    run = run_under_way(find_bundle(bundle))
    found = active_faults(run) if fault is None else abort_fault(run, fault, check=check)
    now_ns = time.time_ns()
    rows = [("EVENT", "KIND", "TARGETS", "ACTIVE", "OF")]
    for one in found:
        targets = ", ".join(name for names in one.targets.values() for name in names)
        active = f"{(now_ns - one.since_ns) / 1e9:.0f} s"
        rows.append((one.event, one.kind, targets, active, f"{one.for_ms / 1000:g} s"))
    text = columns(rows) if found else f"{run.name}: no fault is active"
    if fault is not None:
        text += "\nwould be aborted" if check else "\naborted"
    aborted = fault is not None and not check
    print_found({"run": run.name, "aborted": aborted, "faults": found}, text, as_json=as_json)
