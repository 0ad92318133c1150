"""A bench says what it is doing, and what it waits for if that does not come.

Nothing here has a time limit as a whole: a slow machine is allowed to be slow. What stands still is
given up, and the error says where it stood.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from testbed.errors import LabFault

__all__ = ["STALL_S", "Say", "Standing", "until"]

STALL_S = 60.0  # without any progress
SAY_S = 5.0
POLL_S = 0.05

Say = Callable[[str], None]


class Standing(Protocol):
    """`client.Client`."""

    @property
    def standing(self) -> str: ...


async def until(
    what: str,
    client: Standing,
    count: Callable[[], int],
    work: Coroutine[Any, Any, None],
    say: Say,
    *,
    stall_s: float = STALL_S,
) -> None:
    """Runs `work` to its end. `count` is how far it is: said every few seconds, and if it does not
    change for `stall_s`, the work is cancelled. Raises LabFault, and what `work` raises."""
    task = asyncio.create_task(work)
    try:
        known, changed_s = count(), time.monotonic()
        said_s = changed_s
        while not (await asyncio.wait((task,), timeout=POLL_S))[0]:
            now_s = time.monotonic()
            if count() != known:
                known, changed_s = count(), now_s
            if now_s - changed_s >= stall_s:
                raise LabFault(
                    f"{what}: at {known} for {stall_s:.0f} s; {client.standing}. "
                    "Replicas that get too little of the processor change views without end: "
                    "fewer replicas or requests in flight, or a quieter machine"
                )
            if now_s - said_s >= SAY_S:
                said_s = now_s
                say(f"{what}: {known}; {client.standing}")
        await task
    finally:
        task.cancel()
