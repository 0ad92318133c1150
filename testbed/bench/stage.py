"""Shows the current stage of a bench; if the bench stops making progress, names the stage.

No stage has a limit for its whole time: a slow machine may be slow. A stage without progress is
given up, and the error says how far it came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from testbed.errors import LabFault

__all__ = ["STALL_S", "HasStateText", "Say", "until"]

STALL_S = 60.0  # without any progress
SAY_S = 5.0
POLL_S = 0.05

Say = Callable[[str], None]


class HasStateText(Protocol):
    """What a stage needs of a `client.Client`."""

    @property
    def state_text(self) -> str: ...


async def until(
    what: str,
    client: HasStateText,
    count: Callable[[], int],
    work: Coroutine[Any, Any, None],
    say: Say,
    *,
    stall_s: float = STALL_S,
) -> None:
    """Runs `work` to its end. `count` returns its progress, which is printed every few seconds. If
    it does not change for `stall_s`, the work is cancelled. Raises LabFault, and what `work`
    raises."""
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
                    f"{what}: at {known} for {stall_s:.0f} s; {client.state_text}. "
                    "Replicas that get too little of the processor change views without end: "
                    "fewer replicas or requests in flight, or a quieter machine"
                )
            if now_s - said_s >= SAY_S:
                said_s = now_s
                say(f"{what}: {known}; {client.state_text}")
        await task
    finally:
        task.cancel()
