"""The shared part of `device` and `admin` commands: they work as the operator of a running lab.

The operator itself is in `testbed.standing.operator`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from chain.ledger.statement import Statement
from testbed.commands.options import print_found
from testbed.errors import LabFault
from testbed.standing.operator import Operator, operating
from testbed.standing.running_lab import RunningLab, find_running
from testbed.standing.state import look, without_votes

__all__ = ["block_time", "lost_ledgers", "operate", "outcome", "print_done"]

T = TypeVar("T")


def operate(inventory: Path | None, work: Callable[[Operator], Awaitable[T]]) -> T:
    """Does `work` as the operator of the lab that is up. If the lab does not answer, the error says
    which replicas lost their ledgers."""
    running = find_running(inventory)

    async def inside() -> T:
        async with operating(running) as operator:
            return await work(operator)

    try:
        return asyncio.run(inside())
    except LabFault as error:
        if lost := lost_ledgers(running):
            raise LabFault(f"{error} ({lost})") from error
        raise


def lost_ledgers(running: RunningLab) -> str:
    """Says which replicas lost their ledgers; "" if that cannot be asked."""
    with suppress(LabFault):
        return without_votes(look(running))
    return ""


def print_done(found: dict[str, Any], as_json: bool) -> None:
    """Print what was done: the record for machines, `said` for people."""
    said = found.pop("said")
    print_found(found, f"{found['name']}: {said}", as_json=as_json)


def outcome(statement: Statement) -> str:
    return f"{statement.op} done, block time {block_time(statement.time_us)}"


def block_time(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds")
