"""`testbed up`: a bench that runs until it is told to end; `testbed down` tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from inventory.load import load_lab
from inventory.model import Lab
from nodes.workload import Go
from testbed.campaign.session import opened_hosts
from testbed.commands.options import InventoryOption
from testbed.hosts.opening import limited
from testbed.lease import Lease
from testbed.provision.deployment import Deployment, Progress
from testbed.provision.workspace import workspace
from testbed.standing import BENCH_FILE, Bench, describe

__all__ = ["app", "standing_bench"]

DAY_MS = 86_400_000
POLL_S = 0.2
ANSWER_TIMEOUT_MS = 5_000

app = typer.Typer(add_completion=False)


@app.command()
def up(
    inventory: InventoryOption = None,
    every_s: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between a mobile's readings.")
    ] = 5.0,
) -> None:
    """Deploy a lab, admit its devices and keep it running, for a day at most.

    Ends with Ctrl-C or `testbed down`, and takes everything with it. Meanwhile `testbed device`
    lists, admits, renews and revokes devices.
    """
    with standing_bench(load_lab(inventory), every_s, typer.echo) as (bench, _):
        typer.echo(f"the bench is up: {Path(bench.home) / BENCH_FILE}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):  # SIGTERM is one too
            while True:
                time.sleep(POLL_S)


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
