"""`testbed refusals`: try everything that must be refused, and say which layer refused it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from inventory.entries import BrokerOptions
from inventory.load import load_lab
from testbed.attacker.attacker import Attacker
from testbed.attacker.forgery import Hand
from testbed.attacker.manufacturer import Manufacturer
from testbed.commands.options import JsonOption, columns, markdown, print_found, say
from testbed.refusals.cases import try_all
from testbed.refusals.trial import Refusal, RefusalTrial
from testbed.standing.bringup import running_lab
from testbed.standing.operator import operating

__all__ = ["refusals"]

HEADER = ("tried", "refused by", "reason")


Broker = Literal["embedded", "mosquitto"]


def refusals(
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of gateway/README.md.")
    ] = False,
    broker: Annotated[Broker, typer.Option(help="Which broker the lab has.")] = "embedded",
    as_json: JsonOption = False,
) -> None:
    """Start the loopback lab, try every known attack, and print which layer refused each.

    Exit code 1 if anything was not refused, 3 if the lab failed.
    """
    found = _attack(broker)
    rows = [HEADER, *((each.tried, each.layer, each.reason) for each in found)]
    print_found(found, markdown(rows) if as_markdown else columns(rows), as_json=as_json)
    for each in found:
        if not each.refused:
            typer.echo(f"not refused: {each.tried}", err=True)
    if not all(each.refused for each in found):
        raise typer.Exit(1)


def _attack(broker: Broker) -> Sequence[Refusal]:
    """On a part of the loopback lab, with a manufacturer whose devices it admits."""
    manufacturer = Manufacturer()
    with TemporaryDirectory(prefix="refusals-") as scratch:
        root = Path(scratch) / "root.pem"
        root.write_bytes(manufacturer.root_pem)
        lab = load_lab(None)
        board = next(iter(lab.boards))  # one line is enough; devices he brings himself
        hosts = {
            name: host
            for name, host in lab.hosts.items()
            if name == lab.boards[board].host or {"replica", "gateway"} & set(host.roles)
        }
        lab = lab.model_copy(
            update={
                "hosts": hosts,
                "boards": {board: lab.boards[board]},
                "chain": lab.chain.model_copy(update={"factory_roots": (str(root),)}),
                "broker": BrokerOptions(kind=broker),
            }
        )
        with (
            running_lab(lab, every_ms=60_000, progress=say) as (running, deployment),
            closing(Attacker(deployment)) as attacker,
        ):
            attacker.become_relay()
            # The attacker comes before the operator, who uses the same administrator's key with
            # smaller counters.
            hand = Hand.of(attacker, Random(1))  # noqa: S311 - repeatable, not secret

            async def attack() -> Sequence[Refusal]:
                async with operating(running) as operator:
                    return await try_all(
                        RefusalTrial(deployment, operator, manufacturer, hand), say
                    )

            return asyncio.run(attack())
