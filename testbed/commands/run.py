"""`testbed run`: run a campaign and say what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inventory.load import load_lab, packaged
from testbed.bundle import RUNS_DIR
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.schedule import expand
from testbed.campaign.session import Inputs, run_campaign
from testbed.commands.options import InventoryOption, JsonOption, OutOption, SeedOption
from testbed.commands.report import judge
from testbed.screen import make_screen

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    campaign: Annotated[str, typer.Argument(help="Name of a shipped campaign, or a file.")],
    inventory: InventoryOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Run a campaign on a lab, check what it left, and write a result bundle.

    Exit code 0 if everything that the campaign expects held, 1 if not, 3 if the lab failed or
    nothing can be said. Ctrl-C stops everything that was started and keeps what was collected.
    """
    path = find_campaign(campaign)
    lab = load_lab(inventory)
    inputs = Inputs(
        lab=lab,
        schedule=expand(load_campaign(path), lab, seed),
        campaign_yaml=path.read_bytes(),
        inventory_yaml=Path(inventory or packaged("loopback")).read_bytes(),
    )
    with make_screen(as_json) as screen:
        bundle = run_campaign(inputs, out or RUNS_DIR, screen)
        screen.say("checking ledgers and logs")
    raise typer.Exit(judge(bundle, as_json=as_json))
