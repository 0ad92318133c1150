"""`testbed device`: list, show, admit, renew, grant and revoke devices of a running bench."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from chain.identity import Identity
from chain.statement import OK, Statement
from nodes.edge_config import BrokerAddress, MobileConfig
from nodes.events import read_events
from nodes.process import write_atomically
from nodes.tenure import ORDER_FILE, Order
from nodes.workload import Go
from testbed.commands.options import JsonOption, columns, print_json
from testbed.errors import ConfigurationError, LabFault
from testbed.operator import Operator, operating
from testbed.standing import Bench, find_bench

__all__ = ["app"]

WAIT_S_MAX = 60.0
POLL_S = 0.3

T = TypeVar("T")
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, admit, renew, grant and revoke devices of a running bench.",
)

BenchOption = Annotated[
    Path | None, typer.Option("--bench", help="Its bench.json; default: the newest that runs.")
]
Who = Annotated[str, typer.Argument(help="Name, or the first digits of a node id.")]


def _operate(bench: Path | None, work: Callable[[Operator], Awaitable[T]]) -> T:
    async def inside() -> T:
        async with operating(find_bench(bench)) as operator:
            return await work(operator)

    return asyncio.run(inside())


@app.command("list")
def list_devices(bench: BenchOption = None, as_json: JsonOption = False) -> None:
    """Every device that was ever admitted, from a ledger copy verified here."""

    async def work(operator: Operator) -> list[dict[str, Any]]:
        return [_about(name, identity) for name, identity in operator.devices]

    found = _operate(bench, work)
    if as_json:
        print_json(found)
        return
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
    typer.echo(columns(rows))


@app.command()
def show(who: Who, bench: BenchOption = None, as_json: JsonOption = False) -> None:
    """One device: what the chain knows of it, and its records except data."""

    async def work(operator: Operator) -> dict[str, Any]:
        name, identity = operator.find(who)
        records = operator.records(identity)
        return _about(name, identity) | {
            "counter": identity.counter,
            "data_records": sum(each.op == "data" for _, each in records),
            "records": [_record(at, each) for at, each in records if each.op != "data"],
        }

    found = _operate(bench, work)
    if as_json:
        print_json(found)
        return
    records = found.pop("records")
    typer.echo(columns([(key, value) for key, value in found.items()]))
    typer.echo(
        columns([("height", "operation", "status", "time")] + [tuple(r.values()) for r in records])
    )


@app.command()
def revoke(
    who: Who,
    reason: Annotated[str, typer.Option(help="Stands in the record.")] = "operator",
    by_device: Annotated[bool, typer.Option(help="The device revokes itself.")] = False,
    bench: BenchOption = None,
) -> None:
    """Take a device's access away, for good; the gateway then removes it from the broker."""

    async def work(operator: Operator) -> str:
        name, identity = operator.find(who)
        if by_device:
            await _order(operator, name, Order(do="revoke"))
            await _until(operator, lambda: _ended(operator, identity.node))
            return f"{name} has revoked itself"
        statement = await operator.revoke(identity, reason)
        return f"{name}: {_outcome(statement)}"

    typer.echo(_operate(bench, work))


@app.command()
def grant(
    who: Who,
    privilege: Annotated[int, typer.Option(min=0, max=255, help="The new level.")],
    bench: BenchOption = None,
) -> None:
    """Change a device's privilege; its certificate is issued anew."""

    async def work(operator: Operator) -> str:
        name, identity = operator.find(who)
        return f"{name}: {_outcome(await operator.grant(identity, privilege))}"

    typer.echo(_operate(bench, work))


@app.command()
def renew(
    who: Who,
    rollover: Annotated[bool, typer.Option(help="Under a new key.")] = False,
    bench: BenchOption = None,
) -> None:
    """Have a device renew its certificate now: it signs that itself, with its old key."""

    async def work(operator: Operator) -> str:
        name, before = operator.find(who)
        serial = before.serial
        await _order(operator, name, Order(do="rollover" if rollover else "renew"))
        await _until(operator, lambda: operator.find(name)[1].serial != serial)
        now = operator.find(name)[1]
        return f"{name}: valid until {_time(now.not_after_us)}, node {now.node.hex()[:16]}"

    typer.echo(_operate(bench, work))


@app.command()
def admit(
    name: Annotated[str, typer.Argument(help="What the new device is called.")],
    directory: Annotated[Path, typer.Option("--dir", help="Its key and files are kept here.")],
    privilege: Annotated[int, typer.Option(min=0, max=255, help="The level that it may have.")] = 1,
    bench: BenchOption = None,
) -> None:
    """Admit one more mobile device: a voucher, its own key, access authentication, ledger copy.

    It can be started again with `python -m nodes.mobile --config DIR/config.json`.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigurationError(f"{directory} is not empty: choose another --dir")

    async def work(operator: Operator) -> Bench:
        voucher = await operator.new_voucher(name, privilege)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(directory / "voucher.pem", voucher.pem, mode=0o600)
        return operator.bench

    found = _operate(bench, work)
    _write_device(directory, name, privilege, found)
    typer.echo(_run_until_admitted(name, directory))


def _write_device(directory: Path, name: str, privilege: int, bench: Bench) -> None:
    (directory / "genesis.json").write_bytes(bench.genesis.read_bytes())
    config = MobileConfig(
        name=name,
        genesis="genesis.json",
        state="state",
        voucher="voucher.pem",
        broker=BrokerAddress(bench.broker_host, bench.broker_port),
        go="go.json",
        privilege=privilege,
        session=False,
        events="events.jsonl",
    )
    (directory / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    go = Go(start_ns=time.time_ns(), enrol_at_ms=0, sends_ms=(), end_ms=0, timeout_ms=5_000)
    (directory / "go.json").write_bytes(msgspec.json.encode(go))


def _run_until_admitted(name: str, directory: Path) -> str:
    argv = [sys.executable, "-m", "nodes.mobile", "--config", str(directory / "config.json")]
    child = subprocess.Popen([*argv, "--exit-on-stdin-eof"], stdin=subprocess.PIPE)
    events: dict[str, dict[str, object]] = {}
    deadline_s = time.monotonic() + WAIT_S_MAX
    try:
        while "done" not in events:
            if time.monotonic() > deadline_s or child.poll() is not None:
                raise LabFault(f"{name} was not admitted; see {directory / 'events.jsonl'}")
            time.sleep(POLL_S)
            path = directory / "events.jsonl"
            events = {e.event: e.fields for e in read_events(path)} if path.exists() else {}
    finally:
        child.terminate()
        child.wait()
    if "admitted" not in events:
        raise LabFault(f"{name} was denied: {events.get('denied', {}).get('reason', 'unknown')}")
    verified = events.get("ledger-verified", {})
    return f"{name}: admitted, ledger verified to height {verified.get('height')}"


async def _order(operator: Operator, name: str, order: Order) -> None:
    """Hand a device what it shall do itself."""
    node = operator.bench.nodes.get(name)
    if node is None or node.directory is None:
        raise ConfigurationError(f"{name} does not run on this machine as part of the bench")
    path = Path(node.directory) / "state" / ORDER_FILE
    await asyncio.to_thread(write_atomically, path, msgspec.json.encode(order))


async def _until(operator: Operator, condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S_MAX
    while not condition():
        if time.monotonic() > deadline_s:
            raise LabFault(f"the device has not done it within {WAIT_S_MAX:.0f} s")
        await asyncio.sleep(POLL_S)
        await operator.refresh()


def _ended(operator: Operator, node: bytes) -> bool:
    return any(each.ended for _, each in operator.devices if each.node == node)


def _outcome(statement: Statement) -> str:
    done = "done" if statement.status == OK else statement.status
    return f"{statement.op} {done}, block time {_time(statement.time_us)}"


def _about(name: str, identity: Identity) -> dict[str, Any]:
    return {
        "name": name,
        "node": identity.node.hex(),
        "kind": identity.kind,
        "state": identity.ended or "admitted",
        "privilege": identity.privilege,
        "services": list(identity.services),
        "not_before": _time(identity.not_before_us),
        "not_after": _time(identity.not_after_us),
        "sessions": len(identity.sessions),
    }


def _record(height: int, statement: Statement) -> dict[str, Any]:
    return {
        "height": height,
        "op": statement.op,
        "status": statement.status,
        "time": _time(statement.time_us),
    }


def _time(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds")
