"""Real replica processes on this machine, one request after the other. A model is compared with
these times."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import msgspec
import psutil

from chain.genesis import Consensus
from nodes.events import read_events
from testbed.bench.limit import cpu_s
from testbed.bench.load import BenchDevice, bench_policy, devices
from testbed.bench.network import ReplicaNetwork
from testbed.bench.session import run, session
from testbed.bench.stage import Say

__all__ = ["Measured", "measure_loopback"]

_PAYLOAD_BYTES = 512
_WARM_UP = 10
# Long timeouts: the normal case is timed, so a busy machine must not cause view changes.
_NORMAL_CASE = Consensus(view_timeout_us=10_000_000)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """`ms`: median time from a block's proposal to its execution, at its proposer. `cpu_us`: per
    block and replica."""

    replicas: int
    ms: float
    cpu_us: float


def measure_loopback(replicas: int, blocks: int, say: Say) -> Measured:
    """Raises LabFault."""
    with tempfile.TemporaryDirectory(prefix="model-") as directory:
        of = devices(1)
        say(f"{replicas} replicas: {blocks} blocks, one request at a time")
        with ReplicaNetwork(
            Path(directory), replicas=replicas, policy=bench_policy(of), consensus=_NORMAL_CASE
        ) as network:
            first, last, spent_s = run(_load(network, blocks, of, say))
        proposer_ms = [
            took_us / 1000
            for n in network.replicas
            for took_us in _proposals(network.events(n), first, last)
        ]
    return Measured(
        replicas=replicas,
        ms=median(proposer_ms),
        cpu_us=spent_s * 1e6 / (last - first) / replicas,
    )


async def _load(
    network: ReplicaNetwork, blocks: int, of: list[BenchDevice], say: Say
) -> tuple[int, int, float]:
    """Runs a closed loop. Returns (height before, height after, CPU time of all replicas in
    between)."""
    processes = [psutil.Process(network.pid(n)) for n in network.replicas]
    async with session(network, of, _PAYLOAD_BYTES, say) as bench:
        client = bench.client
        bench.load.start()
        await bench.reach("warming up", lambda: client.height, client.height + _WARM_UP)
        first, before_s = client.height, cpu_s(processes)
        await bench.reach("measuring", lambda: client.height, first + blocks)
        last, after_s = client.height, cpu_s(processes)
        await bench.drain()
    return first, last, after_s - before_s


def _proposals(events: Path, first: int, last: int) -> Iterator[int]:
    """`executed_us` of the blocks that this replica proposed, above `first` up to `last`."""
    for event in read_events(events):
        if event.event == "block" and "proposed_us" in event.fields:
            height, took_us = event.fields["height"], event.fields["executed_us"]
            assert isinstance(height, int)
            assert isinstance(took_us, int)
            if first < height <= last:
                yield took_us
