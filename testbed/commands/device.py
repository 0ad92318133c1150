"""`testbed device`: list, show, admit, renew, grant and revoke devices of a running lab.

Exit codes: 0 done, or there was nothing to do; 1 the chain or the gateway refused; 2 usage (no such
device, no lab is up); 3 the lab does not answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from chain.ledger.identity import Identity
from chain.ledger.statement import Statement
from inventory.entries import Name
from nodes.device.renewal import Order
from nodes.device.vouchers import (
    FACTORY_CHAIN,
    FACTORY_KEY,
    VoucherSigner,
    load_voucher,
    read_chain,
)
from nodes.disk import write_atomically
from testbed.commands.operated import block_time, lost_ledgers, operate, outcome, print_done
from testbed.commands.options import (
    JsonOption,
    RunningOption,
    columns,
    print_found,
    print_json,
    say,
    time_option,
)
from testbed.errors import ConfigurationError, LabFault
from testbed.printed import as_typed
from testbed.standing.newcomer import CONFIG, VOUCHER, run_until_admitted, write_device
from testbed.standing.operator import Operator
from testbed.standing.orders import deliver
from testbed.standing.running_lab import RunningLab

__all__ = ["app"]

WAIT_S_MAX = 60.0
POLL_S = 0.3

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, admit, renew, grant and revoke devices of a running lab; withdraw vouchers.",
)

Who = Annotated[str, typer.Argument(help="Name, or the first digits of a node id.")]


@app.command("list")
def list_devices(inventory: RunningOption = None, as_json: JsonOption = False) -> None:
    """List every device that was ever admitted, from a copy of the ledger that is verified here."""

    async def work(operator: Operator) -> tuple[list[dict[str, Any]], str]:
        found = [_about(name, identity) for name, identity in operator.devices]
        return found, await asyncio.to_thread(lost_ledgers, operator.running)

    found, lost = operate(inventory, work)
    if lost:
        say(as_typed(lost))
    rows = [("name", "kind", "state", "privilege", "services", "valid until", "node")]
    for each in found:
        services = ",".join(each["services"])
        rows.append(
            (
                each["name"],
                each["kind"],
                each["state"],
                str(each["privilege"]),
                services,
                each["not_after"],
                each["node"][:16],
            )
        )
    print_found(found, columns(rows), as_json=as_json)


@app.command()
def show(who: Who, inventory: RunningOption = None, as_json: JsonOption = False) -> None:
    """Show what the chain knows of one device, and its records except data."""

    async def work(operator: Operator) -> dict[str, Any]:
        name, identity = operator.find(who)
        return _about(name, identity) | {
            "counter": identity.counter,
            "data_records": operator.readings(identity),
            "records": [_record(at, each) for at, each in operator.records(identity)],
        }

    found = operate(inventory, work)
    if as_json:
        print_json(found)
        return
    records = found.pop("records")
    found["services"] = ",".join(found["services"])
    typer.echo(columns([(key, str(value)) for key, value in found.items()]))
    typer.echo(
        columns([("height", "operation", "status", "time")] + [tuple(r.values()) for r in records])
    )


@app.command()
def revoke(
    who: Who,
    reason: Annotated[
        str, typer.Option(help="The reason, as the record will state it.")
    ] = "operator",
    by_device: Annotated[bool, typer.Option(help="The device revokes itself.")] = False,
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a device's access away for good. The gateway then removes its login from the broker."""

    async def work(operator: Operator) -> dict[str, Any]:
        name, identity = operator.find(who)
        if identity.ended is not None:
            return _done(name, identity, f"is {identity.ended} already", changed=False)
        if by_device:
            await _order(operator, name, Order(do="revoke"))
            await _until(operator, lambda: operator.identity(identity.node).ended is not None)
            return _done(name, operator.identity(identity.node), "has revoked itself")
        statement = await operator.revoke(identity, reason)
        return _done(name, operator.identity(identity.node), outcome(statement))

    print_done(operate(inventory, work), as_json)


@app.command()
def grant(
    who: Who,
    privilege: Annotated[int, typer.Option(min=0, max=255, help="The new level.")],
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a device's privilege. A new certificate is issued."""

    async def work(operator: Operator) -> dict[str, Any]:
        name, identity = operator.find(who)
        _must_stand(name, identity)
        if identity.privilege == privilege:
            return _done(name, identity, f"has privilege {privilege} already", changed=False)
        statement = await operator.grant(identity, privilege)
        return _done(name, operator.identity(identity.node), outcome(statement))

    print_done(operate(inventory, work), as_json)


@app.command()
def renew(
    who: Who,
    rollover: Annotated[bool, typer.Option(help="Change to a new key.")] = False,
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a device renew its certificate now. The device signs the renewal itself, with its old
    key."""

    async def work(operator: Operator) -> dict[str, Any]:
        name, before = operator.find(who)
        _must_stand(name, before)
        serial = before.serial
        await _order(operator, name, Order(do="rollover" if rollover else "renew"))
        await _until(operator, lambda: operator.find(name)[1].serial != serial)
        now = operator.find(name)[1]
        until = block_time(now.not_after_us)
        return _done(name, now, f"renewed, valid until {until}, node {now.node.hex()[:16]}")

    print_done(operate(inventory, work), as_json)


@app.command()
def admit(
    name: Annotated[str, typer.Argument(help="Name of the new device.")],
    *,
    directory: Annotated[Path, typer.Option("--dir", help="Folder for its key and files.")],
    privilege: Annotated[int, typer.Option(min=0, max=255, help="The level that it may have.")] = 1,
    factory: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=f"Admit by a factory identity (IEEE 802.1AR) instead of a token: a folder with "
            f"{FACTORY_KEY} and {FACTORY_CHAIN} (the device's certificate first).",
        ),
    ] = None,
    good_for: Annotated[
        float,
        time_option("--good-for", "How long the voucher is valid.", most="365d", default="1d"),
    ] = 86_400_000,
    start: Annotated[
        bool,
        typer.Option(
            help="Start the device now, or only write the files that your own device needs."
        ),
    ] = True,
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Admit one more mobile device. It gets a voucher, makes its own key, is authenticated, and
    copies the ledger.

    It can be started again with `python -m nodes.device.mobile --config DIR/config.json`. With
    --no-start nothing is started: DIR gets the voucher and the genesis, and config.json names the
    broker. That is for a device in another programming language.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigurationError(
            f"{name!r} is no name: a small letter, then at most 30 small letters, digits or -"
        ) from None
    _make_empty(directory)
    made = None if factory is None else _factory_identity(factory)

    async def expect(operator: Operator) -> RunningLab:
        if made is None:
            token = await operator.new_voucher(name, privilege, int(good_for / 1000))
            write_atomically(directory / VOUCHER, token.pem, mode=0o600)
        else:
            await operator.expect_factory(name, made.chain[0])
        return operator.running

    async def look(operator: Operator) -> dict[str, Any]:
        said = f"admitted, ledger verified to height {height}"
        return _done(name, operator.find(name)[1], said) | {
            "ledger_height": height,
            "config": str((directory / CONFIG).absolute()),
        }

    found = operate(inventory, expect)
    write_device(directory, name, privilege, found, factory.absolute() if factory else None)
    if not start:
        said = f"may ask for access; what it needs is in {directory}"
        print_done(
            {"name": name, "config": str((directory / CONFIG).absolute()), "said": said}, as_json
        )
        return
    height = run_until_admitted(name, directory)
    print_done(operate(inventory, look), as_json)


@app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="The device that the voucher was issued for.")],
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Withdraw an unused voucher, so that it admits no device."""

    async def work(operator: Operator) -> dict[str, Any]:
        done = await operator.withdraw(name)
        return {"name": name, "vouchers": len(done), "said": outcome(done[-1])}

    print_done(operate(inventory, work), as_json)


@app.command()
def bar(
    factory: Annotated[
        Path, typer.Argument(metavar="DIR", help=f"With the device's {FACTORY_CHAIN}.")
    ],
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bar a factory identity, so that it admits no device. A device that it admitted already stays:
    revoke that one too."""
    try:
        chain = read_chain((factory / FACTORY_CHAIN).read_bytes(), str(factory / FACTORY_CHAIN))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{factory}: {error}") from error

    async def work(operator: Operator) -> dict[str, Any]:
        return {"name": str(factory), "said": outcome(await operator.bar(chain[0]))}

    print_done(operate(inventory, work), as_json)


def _make_empty(directory: Path) -> None:
    """Makes the directory, or checks that it is empty. Call it before a voucher is spent."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(directory.iterdir()):
            raise ConfigurationError(f"{directory} is not empty: choose another --dir")
    except OSError as error:
        raise ConfigurationError(f"--dir {directory}: {error.strerror}: choose another") from error


def _factory_identity(directory: Path) -> VoucherSigner:
    try:
        return load_voucher(directory / FACTORY_KEY, directory / FACTORY_CHAIN)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--factory {directory}: {error}") from error


def _must_stand(name: str, identity: Identity) -> None:
    if identity.ended is not None:
        raise ConfigurationError(f"{name} is {identity.ended}: admit it again, under another name")


async def _order(operator: Operator, name: str, order: Order) -> None:
    """Gives a device an order that it carries out itself."""
    await asyncio.to_thread(deliver, operator.running, name, order)


async def _until(operator: Operator, condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S_MAX
    while not condition():
        if time.monotonic() > deadline_s:
            raise LabFault(
                f"the device has not done it within {WAIT_S_MAX:.0f} s, and will do "
                "it later: is its process running?"
            )
        await asyncio.sleep(POLL_S)
        await operator.refresh()


def _done(name: str, identity: Identity, said: str, *, changed: bool = True) -> dict[str, Any]:
    return _about(name, identity) | {"changed": changed, "said": said}


def _about(name: str, identity: Identity) -> dict[str, Any]:
    return {
        "name": name,
        "node": identity.node.hex(),
        "kind": identity.kind,
        "state": identity.ended or "admitted",
        "privilege": identity.privilege,
        "services": list(identity.services),
        "not_before": block_time(identity.not_before_us),
        "not_after": block_time(identity.not_after_us),
        "sessions": len(identity.sessions),
    }


def _record(height: int, statement: Statement) -> dict[str, Any]:
    return {
        "height": height,
        "op": statement.op,
        "status": statement.status,
        "time": block_time(statement.time_us),
    }
