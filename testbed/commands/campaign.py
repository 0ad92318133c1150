"""`testbed campaign`: list, show, check and describe campaign files. `testbed run` runs one."""

from __future__ import annotations

from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.campaign.expand import expand
from testbed.campaign.file import campaign_paths, campaign_schema, find_campaign, load_campaign
from testbed.campaign.kinds import Kind, kinds
from testbed.campaign.warnings import warnings
from testbed.commands.options import InventoryOption, JsonOption, columns, markdown, print_json

__all__ = ["app"]

_KIND_HEADER = ("KIND", "PARAMETERS", "WHAT HAPPENS", "SEEN TO TAKE EFFECT WHEN")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List and check campaign files.")


@app.command("list")
def list_campaigns(as_json: JsonOption = False) -> None:
    """The campaigns that ship with the testbed, and the faults and attacks they can be made of."""
    campaigns = {name: load_campaign(path).about or "" for name, path in campaign_paths().items()}
    if as_json:
        print_json(
            {
                "campaigns": [{"name": name, "about": about} for name, about in campaigns.items()],
                "kinds": [_described(kind) for kind in kinds().values()],
            }
        )
        return
    typer.echo(columns([("CAMPAIGN", ""), *campaigns.items()]) + "\n")
    rows = [(kind.name, kind.category, kind.summary) for kind in kinds().values()]
    typer.echo(columns([("KIND", "", ""), *rows]))


@app.command("kinds")
def list_kinds(
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of testbed/campaign/README.md.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Every kind of fault and attack: its parameters, what it does, how it is seen to take effect.

    Parameters in brackets may be left out; all kinds also take id, in, at, every and until.
    """
    if as_json:
        print_json({"kinds": [_described(kind) for kind in kinds().values()]})
        return
    rows = [_KIND_HEADER]
    rows += [(k.name, " ".join(k.parameters()), k.summary, k.seen) for k in kinds().values()]
    typer.echo(markdown(rows) if as_markdown else columns(rows))


def _described(kind: Kind) -> dict[str, object]:
    return {
        "name": kind.name,
        "category": kind.category,
        "layer": kind.layer,
        "about": kind.summary,
        "parameters": kind.parameters(),
        "impairs": kind.impairs,
        "seen": kind.seen,
    }


@app.command()
def show(campaign: Annotated[str, typer.Argument(help="Name or file.")]) -> None:
    """Print a campaign file, to copy from: testbed campaign show quick-start > mine.yaml."""
    typer.echo(find_campaign(campaign).read_text(), nl=False)


@app.command()
def check(
    campaign: Annotated[str, typer.Argument(help="Name or file.")],
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a campaign: its file, and that it can be scheduled on the lab within its guard."""
    path = find_campaign(campaign)
    loaded = load_campaign(path)
    lab = load_lab(inventory)
    schedule = expand(loaded, lab)
    if as_json:
        print_json(
            {
                "ok": True,
                "file": str(path),
                "schedule_hash": schedule.schedule_hash,
                "warnings": [*warnings(schedule)],
            }
        )
    else:
        count = len(schedule.runs)
        runs = f"{count} run{'s' if count != 1 else ''} of {schedule.run_ms / 1000:g} s"
        typer.echo(f"{path}: ok: {runs}")
        for warning in warnings(schedule):
            typer.echo(f"warning: {warning}", err=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of campaign files, with the parameters of every kind."""
    print_json(campaign_schema())
