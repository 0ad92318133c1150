"""`testbed up`: a bench that runs until it is told to end; `testbed down` tells it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from inventory.load import load_lab
from inventory.model import Lab
from nodes.workload import Go
from testbed.campaign.session import opened_hosts
from testbed.commands.options import InventoryOption, JsonOption, print_json
from testbed.hosts.opening import limited
from testbed.lease import Lease
from testbed.operator import operating
from testbed.provision.deployment import Deployment, Progress
from testbed.provision.workspace import workspace
from testbed.standing import BENCH_FILE, Bench, describe

__all__ = ["app", "standing_bench"]

DAY_MS = 86_400_000
POLL_S = 0.2
ANSWER_TIMEOUT_MS = 5_000
ADMITTED_S_MAX = 60.0

app = typer.Typer(add_completion=False)


@app.command()
def up(
    inventory: InventoryOption = None,
    every_s: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between a mobile's readings.")
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Deploy a lab, admit its devices and keep it running, for a day at most.

    Ends with Ctrl-C or `testbed down`, and takes everything with it. Meanwhile `testbed device`
    lists, admits, renews and revokes devices. With --json one document tells that it is up.
    """

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    with (
        standing_bench(load_lab(inventory), every_s, say) as (bench, _),
        suppress(KeyboardInterrupt),  # SIGTERM is one too
    ):
        say("admitting the devices")
        admitted, missing = asyncio.run(_admissions(bench))
        if as_json:
            print_json(_described(bench, admitted, missing))
        else:
            for name in missing:
                typer.echo(f"not admitted so far: {name}", err=True)
            file = Path(bench.home) / BENCH_FILE
            typer.echo(f"the bench is up with {len(admitted)} devices: {file}; Ctrl-C ends it")
        sys.stdout.flush()
        while True:
            time.sleep(POLL_S)


async def _admissions(bench: Bench) -> tuple[list[str], list[str]]:
    """(devices that the chain has admitted, those that it has not within `ADMITTED_S_MAX`)."""
    wanted = {n for n, node in bench.nodes.items() if node.role in ("mobile", "environment")}
    async with operating(bench) as operator:
        deadline_s = time.monotonic() + ADMITTED_S_MAX
        while True:
            admitted = wanted & {name for name, _ in operator.devices}
            if admitted == wanted or time.monotonic() > deadline_s:
                return sorted(admitted), sorted(wanted - admitted)
            await asyncio.sleep(POLL_S)
            await operator.refresh()


def _described(bench: Bench, admitted: list[str], missing: list[str]) -> dict[str, Any]:
    """What a script needs to go on; nothing secret."""
    return {
        "bench": str(Path(bench.home) / BENCH_FILE),
        "pid": bench.pid,
        "broker": f"{bench.broker_host}:{bench.broker_port}",
        "nodes": {name: {"role": n.role, "host": n.host} for name, n in bench.nodes.items()},
        "admitted": admitted,
        "missing": missing,
    }


@contextmanager
def standing_bench(
    lab: Lab, every_s: float, progress: Progress
) -> Iterator[tuple[Bench, Deployment]]:
    """A bench for the length of a `with` block; devices enrol at once."""
    with ExitStack() as stack:
        home = stack.enter_context(workspace())  # gone last: `testbed down` waits for that
        hosts, python = stack.enter_context(opened_hosts(lab))
        stack.enter_context(Lease({name: hosts[name] for name in limited(lab, None)}))
        deployment = stack.enter_context(Deployment(lab, hosts, python, progress))
        deployment.set_up()
        deployment.start()
        roots = {
            name: Path(str(hosts[name].root))
            for name, host in lab.active.items()
            if host.connection == "local"
        }
        bench = describe(deployment, home, roots)
        period_ms = round(every_s * 1000)
        plan = Go(
            start_ns=time.time_ns(),
            enrol_at_ms=0,
            sends_ms=tuple(range(period_ms, DAY_MS, period_ms)),
            end_ms=DAY_MS,
            timeout_ms=ANSWER_TIMEOUT_MS,
        )
        devices = [*deployment.with_role("environment"), *deployment.with_role("mobile")]
        deployment.go({node.name: msgspec.json.encode(plan) for node in devices})
        yield bench, deployment
