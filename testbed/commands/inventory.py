"""`testbed inventory`: check, show and describe the file that describes a lab."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from inventory.checks import warnings
from inventory.entries import HostEntry
from inventory.explain import path_text
from inventory.load import load_lab, packaged
from inventory.model import Lab
from inventory.schema import lab_schema
from testbed.commands.options import (
    CheckOption,
    InventoryOption,
    JsonOption,
    SystemOption,
    columns,
    print_found,
    print_json,
)
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
    """Check a file. Print every mistake with its place and how to fix it. Exit code 2 if there is
    one."""
    path = _path(file, inventory)
    lab = load_lab(path)
    warned = [f"{path_text(mistake.loc)}: {mistake.message}" for mistake in warnings(lab)]
    found = {
        "ok": True,
        "file": str(path),
        "lab": lab.lab,
        "stage": lab.stage_name(),
        "replicas": list(lab.replicas()),
        "f": lab.f,
        "boards": list(lab.boards_in_use()),
        "mobiles": [mobile.name for mobile in lab.mobiles()],
        "excluded": [{"name": out.name, "reason": out.reason} for out in lab.excluded()],
        "warnings": warned,
    }
    text = (
        f"{path}: ok: lab {lab.lab}, {len(lab.replicas())} replicas (f = {lab.f}), "
        f"{len(lab.mobiles())} mobile devices, {len(lab.boards_in_use())} boards"
    )
    lines = [*(f"warning: {each}" for each in warned), text]
    print_found(found, "\n".join(lines), as_json=as_json)


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


@app.command()
def prometheus(
    file: FileArgument = None,
    inventory: InventoryOption = None,
    system: SystemOption = "chain",
    as_json: JsonOption = False,
) -> None:
    """Print the addresses at which the processes of a lab give metrics; with --json in the format
    of Prometheus's file_sd_configs.

    The inventory must have `metrics: {port: 9100}`. testbed/monitoring/README.md shows the rest.

    \b
    testbed inventory prometheus -i lab.yaml --json > targets.json
    """
    # The layout of processes takes a moment to import.
    from testbed.provision.targets import metrics_targets  # noqa: PLC0415
    from testbed.systems.known import find_system  # noqa: PLC0415

    path = _path(file, inventory)
    lab = load_lab(path)
    if lab.metrics is None:
        raise ConfigurationError(f"{path}: no metrics; fix: add   metrics: {{port: 9100}}")
    found = metrics_targets(find_system(system).lab(lab))
    rows: list[tuple[object, ...]] = [("PROCESS", "HOST", "ROLE", "METRICS")]
    rows += [
        (
            each.process,
            each.labels["host"],
            each.labels["role"],
            f"http://{each.address}/metrics",
        )
        for each in found
    ]
    listed = [{"targets": [each.address], "labels": each.labels} for each in found]
    print_found(listed, columns(rows), as_json=as_json)


@app.command()
def discover(inventory: InventoryOption = None, as_json: JsonOption = False) -> None:
    """Ask the hosts for their inventory entries: hardware serial numbers, sensor boards.

    Changes nothing. Exit code 0 all hosts answered, 4 some did not, 3 none did.
    """
    from testbed.discovery import discover_host, suggestion  # noqa: PLC0415 - SSH is slow to load
    from testbed.fleet import exit_code, for_each, problems  # noqa: PLC0415
    from testbed.hosts.opening import limited, ssh_hosts  # noqa: PLC0415

    lab = load_lab(inventory)
    with ssh_hosts(lab, limited(lab, None)) as hosts:
        outcomes = for_each(hosts, discover_host)
    found = {outcome.host: outcome.value for outcome in outcomes if outcome.value is not None}
    print_found(found, suggestion(lab, found), as_json=as_json)
    for problem in problems(outcomes):
        typer.echo(problem, err=True)
    raise typer.Exit(exit_code(outcomes))


@app.command()
def trust(
    host: Annotated[str, typer.Argument(help="Name of a host of the inventory.")],
    inventory: InventoryOption = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="SHA256:...", help="Trust only this fingerprint.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Trust the key that the host shows, without asking.")
    ] = False,
    check: CheckOption = False,
) -> None:
    """Show a host's key. If you confirm it, write it to the inventory's known_hosts.

    Compare the fingerprint with the one that the machine itself prints:
    `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`. Without a terminal this command does not
    ask: give --fingerprint or --yes.
    """
    from testbed.discovery import offer  # noqa: PLC0415 - SSH is slow to load
    from testbed.hosts import host_keys  # noqa: PLC0415

    lab = load_lab(inventory)
    shown, known = offer(lab, host)
    kind = shown.key.get_name()
    typer.echo(f"{host} ({shown.entry}) shows {kind} key\n  {shown.fingerprint}")
    if known:
        typer.echo(f"  {shown.known_hosts} has {known}")
    if fingerprint is not None and fingerprint != shown.fingerprint:
        raise ConfigurationError(f"{host} shows another key than {fingerprint}; not trusted")
    if known == shown.fingerprint:
        typer.echo(f"{host} is trusted already; nothing is changed")
        return
    if check:
        typer.echo(f"would be trusted in {shown.known_hosts}")
        return
    if fingerprint is None and not yes:
        if not sys.stdin.isatty():
            again = f"testbed inventory trust {host} -i FILE --fingerprint {shown.fingerprint}"
            raise ConfigurationError(f"not trusted; if it is the right one: {again}")
        typer.confirm("trust it?", abort=True)
    host_keys.trust(shown.known_hosts, shown.addr, shown.port, shown.key)
    typer.echo(f"trusted in {shown.known_hosts}")


def _path(file: Path | None, inventory: Path | None) -> Path:
    if file is not None and inventory is not None and file != inventory:
        raise ConfigurationError(f"{file} and -i {inventory}: name one inventory")
    return file or inventory or packaged("loopback")


def _row(lab: Lab, name: str, host: HostEntry) -> tuple[str, ...]:
    count = f" x{host.mobiles}" if host.mobiles > 1 else ""
    roles = ", ".join(role + (count if role == "mobile" else "") for role in host.roles)
    state = f"{host.state}: {host.reason}" if host.reason else host.state
    return name, lab.login_address(name), roles or "-", ", ".join(host.caps) or "-", state


def _pairs(values: dict[str, object]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if v is not None) or "-"
