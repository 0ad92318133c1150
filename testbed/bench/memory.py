"""`testbed bench memory`: does a replica's memory stay flat over many requests while one peer is
bad?

The last replica is suspended (it holds its links and reads nothing) or slow (all its messages are
late) while the others order requests. The bench prints each replica's resident memory over time.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import msgspec
import psutil

from nodes.byzantine.config import Byzantine, Trick
from testbed.bench.consensus import rss_mb
from testbed.bench.load import BenchDevice, bench_policy, devices
from testbed.bench.network import ReplicaNetwork
from testbed.bench.session import run, session
from testbed.bench.stage import Say

__all__ = ["FLAT_MB", "BenchPlan", "BenchResult", "MemorySample", "measure"]

SAMPLES = 10
FLAT_MB = 5.0  # growth that the allocator may show between the half and the end
SLOW_MS = 200


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`peer`: "suspended", "slow" or "none"."""

    replicas: int = 4
    in_flight: int = 100
    payload_bytes: int = 512
    store: str = "sqlite"
    requests: int = 100_000
    peer: str = "suspended"


class MemorySample(msgspec.Struct, frozen=True):
    requests: int
    height: int
    rss_mb: list[float]


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """`growth_mb`: from half of the requests to the end, of the honest replica that grew most."""

    schema: str = "testbed.bench.memory/1"
    plan: BenchPlan
    samples: list[MemorySample]
    largest_mb: float
    growth_mb: float
    flat: bool


def measure(plan: BenchPlan, say: Say) -> BenchResult:
    """Raises LabFault."""
    of = devices(plan.in_flight)
    last = plan.replicas - 1
    slow = {last: Byzantine(Trick.DELAY, delay_ms=SLOW_MS)} if plan.peer == "slow" else {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        ReplicaNetwork(
            Path(directory),
            replicas=plan.replicas,
            policy=bench_policy(of),
            store=plan.store,
            byzantine=slow,
        ) as network,
    ):
        samples = run(_watched(plan, network, of, say))
    honest = [sample.rss_mb[:last] for sample in samples]
    half = honest[len(honest) // 2]
    growth = max(end - middle for middle, end in zip(half, honest[-1], strict=True))
    return BenchResult(
        plan=plan,
        samples=samples,
        largest_mb=max(max(each) for each in honest),
        growth_mb=round(growth, 1),
        flat=growth <= FLAT_MB,
    )


async def _watched(
    plan: BenchPlan, network: ReplicaNetwork, of: list[BenchDevice], say: Say
) -> list[MemorySample]:
    processes = [psutil.Process(network.pid(n)) for n in network.replicas]
    last = network.pid(plan.replicas - 1)
    async with session(network, of, plan.payload_bytes, say, body_source=0) as bench:
        client, load = bench.client, bench.load
        if plan.peer == "suspended":
            os.kill(last, signal.SIGSTOP)
        samples = [MemorySample(0, client.height, rss_mb(processes))]
        load.start()
        for share in range(1, SAMPLES + 1):
            wanted = plan.requests * share // SAMPLES
            await bench.reach("ordering requests", lambda: load.finished, wanted)
            samples.append(MemorySample(load.finished, client.height, rss_mb(processes)))
            say(_line(samples[-1]))
        os.kill(last, signal.SIGCONT)
        await bench.drain()
    return samples


def _line(sample: MemorySample) -> str:
    megabytes = " ".join(f"{each:.1f}" for each in sample.rss_mb)
    return f"{sample.requests:,} requests, height {sample.height:,}: {megabytes} MB"
