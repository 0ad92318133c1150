"""`testbed refusals`: try everything that must be refused, and say which layer refused it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import typer

from inventory.load import load_lab
from testbed.commands.options import JsonOption, columns, print_json
from testbed.commands.up import standing_bench
from testbed.operator import operating
from testbed.provision.deployment import Deployment
from testbed.refusals.cases import try_all
from testbed.refusals.trial import Refusal
from testbed.standing import Bench

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def refusals(as_json: JsonOption = False) -> None:
    """Bring up the loopback lab, attack it in every way we know, print who refused what.

    Exit code 3 if anything was not refused.
    """

    def say(text: str) -> None:
        typer.echo(text, err=True)

    async def attack(bench: Bench, deployment: Deployment) -> Sequence[Refusal]:
        async with operating(bench) as operator:
            return await try_all(deployment, operator, say)

    with standing_bench(load_lab(None), every_s=60.0, progress=say) as (bench, deployment):
        found = asyncio.run(attack(bench, deployment))
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [("tried", "refused by", "reason"), *((r.tried, r.layer, r.reason) for r in found)]
    typer.echo(columns(rows))
