"""`testbed run`: runs a campaign and shows its result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.bundle import RUNS_DIR
from testbed.campaign.book import Inputs, new_bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import (
    campaign_paths,
    find_campaign,
    load_campaign,
    trace_every_max,
)
from testbed.campaign.replay import is_schedule, stored_schedule
from testbed.campaign.schedule import Schedule
from testbed.campaign.screen import make_screen
from testbed.campaign.session import Session
from testbed.commands.deployable import look_before
from testbed.commands.judging import finish, shown_if_the_lab_fails
from testbed.commands.options import (
    CheckOption,
    InventoryOption,
    JsonOption,
    OutOption,
    SeedOption,
    SystemOption,
)
from testbed.errors import ConfigurationError
from testbed.report.judging import Judging
from testbed.systems.known import find_system

__all__ = ["run"]


def run(
    campaign: Annotated[
        str, typer.Argument(help="Name of a shipped campaign, a file, or a saved schedule.")
    ],
    *,
    inventory: InventoryOption = None,
    seed: SeedOption = None,
    system: SystemOption = "chain",
    only: Annotated[
        int | None, typer.Option(min=0, metavar="RUN", help="Make only this run of the schedule.")
    ] = None,
    trace_every: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=trace_every_max,
            metavar="N",
            help="Trace one request in N (0: none), instead of the campaign's value.",
        ),
    ] = None,
    check: CheckOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Run a campaign on a lab, check the ledgers and logs, and write a result bundle.

    With --check it only checks the hosts; `testbed plan` prints the events and their times. A
    schedule that `testbed plan --save FILE` wrote is run exactly as it is; nothing is drawn again.

    Exit code 0 if all expectations of the campaign hold, 1 if not, 3 if the lab failed or no
    verdict is possible, 4 if the result is partial: some runs do not count, or there are too few.
    Ctrl-C stops everything that was started and keeps the collected files; `testbed resume`
    continues from there.
    """
    lab = load_lab(inventory)
    if is_schedule(campaign):
        if seed is not None:
            raise ConfigurationError("--seed: a stored schedule has its seed; leave it out")
        schedule, source = stored_schedule(Path(campaign), lab), None
    else:
        path = find_campaign(campaign)
        schedule, source = (
            expand(load_campaign(path), lab, seed, find_system(system)),
            path.read_bytes(),
        )
    if trace_every is not None:
        schedule = schedule.model_copy(update={"trace_every": trace_every})
    inputs = Inputs(
        lab=lab,
        schedule=schedule if only is None else _part(schedule, only),
        campaign_yaml=source,
        campaign_file=None if campaign in campaign_paths() else campaign,
        inventory_file=None if inventory is None else str(inventory),
    )
    if check:
        raise typer.Exit(look_before(["run", campaign], lab, as_json=as_json))
    bundle = new_bundle(inputs, out or RUNS_DIR)
    judging = Judging(bundle)
    with bundle.locked():
        with shown_if_the_lab_fails(judging, as_json=as_json), make_screen(as_json) as screen:
            judge = judging.run
            session = Session(lab, inputs.schedule, bundle, screen, judge, inventory=inventory)
            session.make(bundle.manifest.runs)
        raise typer.Exit(finish(judging, as_json=as_json))


def _part(schedule: Schedule, index: int) -> Schedule:
    known = [run.index for run in schedule.runs]
    if index not in known:
        raise ConfigurationError(f"--only {index}: the schedule has runs {known[0]} to {known[-1]}")
    return schedule.part(index)
