"""When a device enrols and sends: its plan, a file from the orchestrator.

The file appears when a run starts (written whole, by rename). It holds the wall time of the run's
beginning; its other times count from there. The device draws its sends itself (`sends`). The load
is open-loop: an operation is due at its intended time, even if the previous one is not answered,
and its latency counts from that time.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import msgspec

from nodes.device.sends import Draw
from nodes.exits import Trouble

__all__ = ["Go", "until", "wait_for_go"]

POLL_S = 0.05

Offset = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]


class Go(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`start_ns` is wall time; `enrol_at_ms`, the sends of all `draws` and `end_ms`, when readings
    end, count from it; `timeout_ms` is when an unanswered send is reported as late (it is still
    carried on). `seed` is the trial's: each sensor draws its error from it (`sensor`).
    """

    start_ns: int
    enrol_at_ms: Offset
    draws: tuple[Draw, ...] = ()
    end_ms: Offset
    timeout_ms: Offset
    seed: int = 0

    @property
    def sends_ms(self) -> tuple[int, ...]:
        """Increasing. Raises ValueError: see `Draw`."""
        drawn = (times for draw in self.draws for times in draw.sends_ms.values())
        return tuple(sorted(at for times in drawn for at in times))

    def due_ns(self, offset_ms: int) -> int:
        """Wall time of an offset."""
        return self.start_ns + offset_ms * 1_000_000


async def wait_for_go(path: Path) -> Go:
    """The plan, once it is there. Raises Trouble if it cannot be read."""
    while not path.exists():
        await asyncio.sleep(POLL_S)
    try:
        go = msgspec.json.decode(path.read_bytes(), type=Go)
        go.sends_ms  # noqa: B018 - drawn here: a device that cannot says so before the run
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Trouble(f"{path}: {error}") from error
    return go


async def until(due_ns: int) -> None:
    """Sleeps until a wall time; returns at once if it has passed."""
    while (left_ns := due_ns - time.time_ns()) > 0:
        await asyncio.sleep(left_ns / 1e9)
