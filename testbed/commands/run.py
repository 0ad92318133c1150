"""`testbed run`: run a campaign and say what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

from inventory.load import load_lab
from inventory.model import Lab
from testbed.bundle import RUNS_DIR, Bundle
from testbed.campaign.book import Inputs, new_bundle
from testbed.campaign.file import campaign_paths, find_campaign, load_campaign
from testbed.campaign.schedule import Schedule, expand
from testbed.campaign.screen import make_screen
from testbed.campaign.session import Session
from testbed.commands.options import InventoryOption, JsonOption, OutOption, SeedOption
from testbed.commands.report import judge, judge_run
from testbed.errors import ConfigurationError
from testbed.manifest import RunEntry

__all__ = ["app", "make_runs"]

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
    nothing can be said, 4 if only of some runs of several. Ctrl-C stops everything that was
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
        make_runs(bundle, lab, inputs.schedule, bundle.manifest.runs, as_json=as_json)
    raise typer.Exit(judge(bundle, as_json=as_json))


def make_runs(
    bundle: Bundle,
    lab: Lab,
    schedule: Schedule,
    todo: Sequence[RunEntry],
    *,
    as_json: bool,
    after_a_crash: bool = False,
) -> None:
    """Make runs of a bundle that this process has the lock of. Whatever ends it early, the way to
    go on is told."""
    with make_screen(as_json) as screen:
        session = Session(lab, schedule, bundle, screen, judge_run)
        try:
            session.make(todo, after_a_crash=after_a_crash)
        except BaseException:
            runs = bundle.manifest.runs
            complete = sum(entry.complete for entry in runs)
            if complete < len(runs):
                screen.hide()
                screen.say(f"{complete} of {len(runs)} runs are complete; go on with:")
                screen.say(f"  testbed resume {shlex.quote(str(bundle.path))}")
            raise


def _part(schedule: Schedule, index: int) -> Schedule:
    if index >= len(schedule.runs):
        raise ConfigurationError(
            f"--only {index}: the schedule has runs 0 to {len(schedule.runs) - 1}"
        )
    return schedule.part(index)
