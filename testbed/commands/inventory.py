"""`testbed inventory`: check, show and describe the file that describes a lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inventory.checks import warnings
from inventory.explain import path_text
from inventory.load import load_lab, packaged
from inventory.model import Host, Lab
from inventory.schema import lab_schema
from testbed.commands.options import InventoryOption, JsonOption, columns, print_json
from testbed.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Check and show the file that describes a lab."
)

FileArgument = Annotated[Path | None, typer.Argument(help="Inventory file; as -i.")]


@app.command()
def check(
    file: FileArgument = None, inventory: InventoryOption = None, as_json: JsonOption = False
) -> None:
    """Check a file: every mistake with its place and its fix. Exit code 2 if there is one."""
    path = _path(file, inventory)
    lab = load_lab(path)
    found = [f"{path_text(mistake.loc)}: {mistake.message}" for mistake in warnings(lab)]
    if as_json:
        print_json(
            {
                "ok": True,
                "file": str(path),
                "lab": lab.lab,
                "stage": lab.stage_name(),
                "replicas": list(lab.replicas()),
                "f": lab.f,
                "boards": list(lab.boards_in_use()),
                "mobiles": [mobile.name for mobile in lab.mobiles()],
                "excluded": [{"name": out.name, "reason": out.reason} for out in lab.excluded()],
                "warnings": found,
            }
        )
        return
    for warning in found:
        typer.echo(f"warning: {warning}")
    typer.echo(
        f"{path}: ok: lab {lab.lab}, {len(lab.replicas())} replicas (f = {lab.f}), "
        f"{len(lab.mobiles())} mobile devices, {len(lab.boards_in_use())} boards"
    )


@app.command()
def show(
    file: FileArgument = None, inventory: InventoryOption = None, as_json: JsonOption = False
) -> None:
    """Show a lab with all defaults filled in."""
    lab = load_lab(_path(file, inventory))
    if as_json:
        print_json(lab.model_dump(mode="json", by_alias=True))
        return
    hosts: list[tuple[str, ...]] = [("HOST", "ADDRESS", "ROLES", "CAPS", "STATE")]
    hosts += [_row(lab, name, host) for name, host in lab.hosts.items()]
    boards = [("BOARD", "HOST", "KIND", "MATCH")]
    boards += [
        (
            name,
            board.host,
            board.firmware.board,
            _pairs(board.match.model_dump() if board.match else {}),
        )
        for name, board in lab.boards.items()
    ]
    typer.echo(f"lab {lab.lab}: {lab.stage_name()}, {len(lab.replicas())} replicas, f = {lab.f}\n")
    typer.echo(columns(hosts) + "\n")
    if lab.boards:
        typer.echo(columns(boards) + "\n")
    chain = lab.chain.model_dump(mode="json") | {"f": lab.f, "group": _pairs(lab.group()._asdict())}
    typer.echo(columns([("CHAIN", ""), *chain.items()]))


@app.command()
def schema() -> None:
    """Print the JSON Schema of inventory files."""
    print_json(lab_schema())


def _path(file: Path | None, inventory: Path | None) -> Path:
    if file is not None and inventory is not None and file != inventory:
        raise ConfigurationError(f"{file} and -i {inventory}: name one inventory")
    return file or inventory or packaged("loopback")


def _row(lab: Lab, name: str, host: Host) -> tuple[str, ...]:
    count = f" x{host.mobiles}" if host.mobiles > 1 else ""
    roles = ", ".join(role + (count if role == "mobile" else "") for role in host.roles)
    state = f"{host.state}: {host.reason}" if host.reason else host.state
    return name, lab.address(name), roles or "-", ", ".join(host.caps) or "-", state


def _pairs(values: dict[str, object]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if v is not None) or "-"
