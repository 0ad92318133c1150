"""What the benches of replicas share: a client, a load of enrolled devices, and stages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from testbed.bench.client import RETRY_S, Client
from testbed.bench.load import BenchDevice, ClientLoad
from testbed.bench.network import ReplicaNetwork
from testbed.bench.stage import Say, until

__all__ = ["BenchSession", "run", "session"]

_POLL_S = 0.01

_T = TypeVar("_T")


def run(story: Coroutine[Any, Any, _T]) -> _T:
    import uvloop  # noqa: PLC0415 - if it is missing, asyncio's loop is used

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(story)


@dataclass
class BenchSession:
    """Stages are those of `stage.until`: `count` is the progress."""

    client: Client
    load: ClientLoad
    say: Say
    enrolments_per_s: float = 0.0

    async def until(
        self, what: str, count: Callable[[], int], work: Coroutine[Any, Any, None]
    ) -> None:
        """Runs `work` to its end. Raises LabFault."""
        await until(what, self.client, count, work, self.say)

    async def reach(self, what: str, count: Callable[[], int], wanted: int) -> None:
        """Waits until `count` is `wanted` or more. Raises LabFault."""

        async def reached() -> None:
            while count() < wanted:
                await asyncio.sleep(_POLL_S)

        await self.until(what, count, reached())

    async def drain(self) -> None:
        """No new requests; waits for those in flight. Raises LabFault."""
        load = self.load
        await self.until("waiting for the last requests", lambda: load.finished, load.stop())


@asynccontextmanager
async def session(
    network: ReplicaNetwork,
    devices: list[BenchDevice],
    payload_bytes: int,
    say: Say,
    *,
    body_source: int | None = None,
    retry_s: float = RETRY_S,
) -> AsyncIterator[BenchSession]:
    """Links a client to a started network and enrols the devices. Bodies come from the last
    replica if no other one is given. Raises LabFault."""
    source = network.replicas[-1] if body_source is None else body_source
    client = Client(network, body_source=source, retry_s=retry_s)
    try:
        await client.connect()
        load = ClientLoad(client, devices, payload_bytes)
        made = BenchSession(client, load, say)
        start_s = time.perf_counter()
        await made.until(f"enrolling {len(devices)} devices", lambda: load.enrolled, load.enrol())
        made.enrolments_per_s = len(devices) / (time.perf_counter() - start_s)
        yield made
    finally:
        await client.close()
