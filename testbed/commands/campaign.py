"""`testbed campaign`: list, show, check and describe campaign files. `testbed run` runs one."""

from __future__ import annotations

from difflib import get_close_matches
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated

import typer

from inventory.load import load_lab, packaged
from inventory.model import Lab
from testbed.campaign.expand import expand
from testbed.campaign.file import campaign_paths, campaign_schema, find_campaign, load_campaign
from testbed.campaign.kinds import Kind, kinds
from testbed.campaign.warnings import warnings
from testbed.commands.options import (
    InventoryOption,
    JsonOption,
    columns,
    markdown,
    print_found,
    print_json,
)
from testbed.emulate.inventory_file import planned_lab
from testbed.emulate.plan import EmulationOptions, make_plan
from testbed.errors import ConfigurationError
from testbed.systems.chain import CHAIN

__all__ = ["app"]

_KIND_HEADER = ("KIND", "PARAMETERS", "WHAT HAPPENS", "SEEN TO TAKE EFFECT WHEN")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List and check campaign files.")


@app.command("list")
def list_campaigns(as_json: JsonOption = False) -> None:
    """List the campaigns that ship with the testbed, and the faults and attacks that campaigns can
    use."""
    campaigns = {name: load_campaign(path).about or "" for name, path in campaign_paths().items()}
    found = {
        "campaigns": [{"name": name, "about": about} for name, about in campaigns.items()],
        "kinds": [_described(kind) for kind in kinds().values()],
    }
    rows = [(kind.name, kind.category, kind.summary) for kind in kinds().values()]
    tables = columns([("CAMPAIGN", ""), *campaigns.items()]), columns([("KIND", "", ""), *rows])
    print_found(found, "\n\n".join(tables), as_json=as_json)


@app.command("kinds")
def list_kinds(
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of testbed/campaign/README.md.")
    ] = False,
    stages: Annotated[
        bool,
        typer.Option("--stages", help="Print how each kind is done in each type of lab."),
    ] = False,
    name: Annotated[str | None, typer.Argument(help="Describe this kind only.")] = None,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every kind of fault and attack: its parameters, what it does, and how the testbed sees
    that it took effect.

    Parameters in brackets are optional. All kinds also take id, in, at, every and until.
    """
    if name is not None:
        kind = kinds().get(name)
        if kind is None:
            near = get_close_matches(name, kinds(), n=1)
            raise ConfigurationError(f"no kind {name}" + (f"; {near[0]}?" if near else ""))
        text = (
            f"{kind.name} ({kind.category}, {kind.layer}): {kind.summary}\n\n{kind.about}\n\n"
            f"parameters: {' '.join(kind.parameters())}\nseen when: {kind.seen}"
        )
        print_found(_described(kind), text, as_json=as_json)
        return
    if stages:
        table = stage_rows(inventory)
        typer.echo(markdown(table) if as_markdown else columns(table))
        return
    rows = [_KIND_HEADER]
    rows += [(k.name, " ".join(k.parameters()), k.summary, k.seen) for k in kinds().values()]
    found = {"kinds": [_described(kind) for kind in kinds().values()]}
    print_found(found, markdown(rows) if as_markdown else columns(rows), as_json=as_json)


def stage_rows(inventory: Path | None) -> list[tuple[str, ...]]:
    """One row per kind: its mechanism in each stage (on at least one host), or the reason why there
    is none. Stages are the labs that ship with the testbed, or the lab of `inventory`."""
    labs = [load_lab(inventory)] if inventory else _stage_labs()
    rows = [("KIND", *(lab.stage_name().upper() for lab in labs))]
    for kind in kinds().values():
        cells = []
        for lab in labs:
            chosen, why_not = kind.choose(lab, tuple(lab.active), CHAIN)
            somewhere = (kind.choose(lab, (host,), CHAIN)[0] for host in lab.active)
            chosen = chosen or next(filter(None, somewhere), None)
            cells.append(chosen.name if chosen else f"none: {why_not}")
        rows.append((kind.name, *cells))
    return rows


def _stage_labs() -> list[Lab]:
    network, data = IPv4Network("10.83.0.0/24"), IPv4Network("10.84.0.0/24")
    plan = make_plan("0000", EmulationOptions(hosts=6, boards=2), network, data, "netem")
    return [load_lab(), planned_lab(plan), load_lab(packaged("first-lab"))]


def _described(kind: Kind) -> dict[str, object]:
    return {
        "name": kind.name,
        "category": kind.category,
        "layer": kind.layer,
        "summary": kind.summary,
        "about": kind.about,
        "mechanisms": [each.name for each in kind.mechanisms],
        "parameters": kind.parameters(),
        "seen": kind.seen,
    }


@app.command()
def show(campaign: Annotated[str, typer.Argument(help="Name or file.")]) -> None:
    """Print a campaign file, to start your own from it: testbed campaign show quick-start >
    mine.yaml."""
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
