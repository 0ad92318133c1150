"""`testbed bench catch-up`: how fast a replica catches up after many missed blocks.

The last replica is killed, the others make `blocks` blocks under load, then it comes back under the
same load. The rate at which its ledger grows is compared with the rate at which the chain grows.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import msgspec

from nodes.replica.ledger_file import open_readonly
from testbed.bench.load import BenchDevice, bench_policy, devices
from testbed.bench.network import ReplicaNetwork
from testbed.bench.session import run, session
from testbed.bench.stage import Say

__all__ = ["BenchPlan", "BenchResult", "measure"]

POLL_S = 0.05
LEVEL_BLOCKS = 64  # one checkpoint interval: a replica that keeps up may lag so far


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    replicas: int = 4
    in_flight: int = 4
    payload_bytes: int = 512
    blocks: int = 10_000


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """Rates in blocks/s. `ratio`: of catching up to the live rate before the replica came back.
    `start_s`: from its start until it listens, which includes reading its own ledger."""

    schema: str = "testbed.bench.catch-up/1"
    plan: BenchPlan
    behind_blocks: int
    live_per_s: float
    live_per_s_meanwhile: float
    start_s: float
    took_s: float
    caught_up_per_s: float
    ratio: float


def measure(plan: BenchPlan, say: Say) -> BenchResult:
    """Raises LabFault."""
    of = devices(plan.in_flight)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        ReplicaNetwork(Path(directory), replicas=plan.replicas, policy=bench_policy(of)) as network,
    ):
        return run(_story(plan, network, of, say))


async def _story(
    plan: BenchPlan, network: ReplicaNetwork, of: list[BenchDevice], say: Say
) -> BenchResult:
    last = plan.replicas - 1
    async with session(network, of, plan.payload_bytes, say, body_source=0) as bench:
        client = bench.client
        network.kill(last)
        bench.load.start()
        first, since_s = client.height, time.perf_counter()
        goal = first + plan.blocks
        await bench.reach(f"growing to height {goal:,}", lambda: client.height, goal)
        live_per_s = (client.height - first) / (time.perf_counter() - since_s)

        began_s = time.perf_counter()
        await asyncio.to_thread(network.start, last)
        up_s = time.perf_counter()
        with open_readonly(network.ledger(last)) as ledger:
            start, live = ledger.height, client.height
            behind = live - start
            say(f"back at height {start:,}, {behind:,} blocks behind")

            async def level() -> None:
                while client.height - ledger.height > LEVEL_BLOCKS:
                    await asyncio.sleep(POLL_S)

            await bench.until("catching up", lambda: ledger.height, level())
            took_s = time.perf_counter() - up_s
            caught = ledger.height - start
        meanwhile = (client.height - live) / took_s
        await bench.drain()
    return BenchResult(
        plan=plan,
        behind_blocks=behind,
        live_per_s=live_per_s,
        live_per_s_meanwhile=meanwhile,
        start_s=up_s - began_s,
        took_s=took_s,
        caught_up_per_s=caught / took_s,
        ratio=caught / took_s / live_per_s,
    )
