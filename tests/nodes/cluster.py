"""Real replica processes and a client, for stories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self

from chain.genesis import Consensus
from nodes.byzantine.config import Byzantine
from nodes.events import LoggedEvent, read_events
from nodes.replica.ledger_file import LedgerFile, open_readonly
from testbed.bench.client import Client
from testbed.bench.load import ClientLoad, bench_policy, devices
from testbed.bench.network import ReplicaNetwork

__all__ = ["DEADLINE_S", "FAST", "Cluster", "until"]

DEADLINE_S = 40.0  # generous: other tests share the machine
FAST = Consensus(
    checkpoint_interval=8,
    view_timeout_us=400_000,
    view_timeout_us_max=2_000_000,
    status_interval_us=100_000,
    heartbeat_us=500_000,
    precision_us=2_000_000,
    message_delay_us=2_000_000,
)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Waits for a condition with a deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not in {DEADLINE_S:.0f} s: {what or condition}") from None


class Cluster:
    """`async with Cluster(path) as cluster: await cluster.admit(2); await cluster.data(0)`."""

    def __init__(
        self,
        directory: Path,
        *,
        identities: int = 4,
        replicas: int = 4,
        byzantine: dict[int, Byzantine] | None = None,
        consensus: Consensus = FAST,
        body_source: int = 1,
        keep_data_blocks: int | None = None,
    ) -> None:
        self.devices = devices(identities)
        self.network = ReplicaNetwork(
            directory,
            replicas=replicas,
            policy=bench_policy(self.devices),
            consensus=consensus,
            byzantine=byzantine,
            keep_data_blocks=keep_data_blocks,
        )
        self.client = Client(self.network, body_source=body_source)
        self.load = ClientLoad(self.client, self.devices, 400)

    async def __aenter__(self) -> Self:
        self.network.start()
        await self.client.connect(DEADLINE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        self.network.stop()

    async def admit(self) -> None:
        await self.load.enrol()

    async def data(self, device: int = 0, times: int = 1) -> None:
        for _ in range(times):
            await self.load.data(self.devices[device])

    def ledger(self, replica: int) -> LedgerFile:
        return open_readonly(self.network.ledger(replica))

    def heads(self, replica: int) -> list[bytes]:
        with self.ledger(replica) as ledger:
            return [stored.block.head for stored in ledger.blocks()]

    def height(self, replica: int) -> int:
        with self.ledger(replica) as ledger:
            return ledger.height

    def events(self, replica: int, kind: str) -> list[LoggedEvent]:
        return [e for e in read_events(self.network.events(replica)) if e.event == kind]

    async def level(self) -> int:
        """Until every running replica has on disk all that the client knows as final now: up to
        the height that is returned. (`client.height` itself goes on rising: heartbeats.)"""
        height = self.client.height
        for replica in self.network.replicas:
            await self._on_disk(replica, height)
        return height

    async def caught_up(self, replica: int) -> None:
        """Until the replica has on disk what the client knows as final now."""
        await self._on_disk(replica, self.client.height)

    async def _on_disk(self, replica: int, height: int) -> None:
        await until(lambda: self.height(replica) >= height, f"replica {replica} at {height}")

    async def progress(self, requests: int) -> None:
        """Until so many more requests of the load are final."""
        wanted = self.load.finished + requests
        await until(lambda: self.load.finished >= wanted, f"{requests} more requests")

    def same_chain(self) -> bool:
        """One chain: each replica's is a prefix of the longest."""
        chains = sorted((self.heads(n) for n in self.network.replicas), key=len)
        return all(chain == chains[-1][: len(chain)] for chain in chains)

    def items(self, replica: int) -> list[bytes]:
        with self.ledger(replica) as ledger:
            return [record.item for stored in ledger.blocks() for record in stored.block.records]
