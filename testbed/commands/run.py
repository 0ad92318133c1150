"""`testbed run`: run a campaign and say what came of it."""

from __future__ import annotations

from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.bundle import RUNS_DIR
from testbed.campaign.book import Inputs, new_bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import campaign_paths, find_campaign, load_campaign
from testbed.campaign.schedule import Schedule
from testbed.campaign.screen import make_screen
from testbed.campaign.session import Session
from testbed.commands.judging import finish, judge_run
from testbed.commands.options import InventoryOption, JsonOption, OutOption, SeedOption
from testbed.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    campaign: Annotated[str, typer.Argument(help="Name of a shipped campaign, or a file.")],
    *,
    inventory: InventoryOption = None,
    seed: SeedOption = None,
    only: Annotated[
        int | None, typer.Option(min=0, metavar="RUN", help="Just this run of the schedule.")
    ] = None,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Run a campaign on a lab, check what it left, and write a result bundle.

    Exit code 0 if everything that the campaign expects held, 1 if not, 3 if the lab failed or
    nothing can be said, 4 if something stays open: some runs do not count, or they are too few.
    Ctrl-C stops everything that was
    started and keeps what was collected; `testbed resume` goes on from there.
    """
    path = find_campaign(campaign)
    lab = load_lab(inventory)
    schedule = expand(load_campaign(path), lab, seed)
    inputs = Inputs(
        lab=lab,
        schedule=schedule if only is None else _part(schedule, only),
        campaign_yaml=path.read_bytes(),
        campaign_file=None if campaign in campaign_paths() else campaign,
        inventory_file=None if inventory is None else str(inventory),
    )
    bundle = new_bundle(inputs, out or RUNS_DIR)
    with bundle.locked():
        with make_screen(as_json) as screen:
            session = Session(lab, inputs.schedule, bundle, screen, judge_run)
            session.make(bundle.manifest.runs)
        raise typer.Exit(finish(bundle, as_json=as_json))


def _part(schedule: Schedule, index: int) -> Schedule:
    if index >= len(schedule.runs):
        raise ConfigurationError(
            f"--only {index}: the schedule has runs 0 to {len(schedule.runs) - 1}"
        )
    return schedule.part(index)
