"""`testbed bench traces`: what tracing costs a replica, as a paired ratio of CPU time.

Two networks stand side by side, one of which writes traces. They are under the same load in turns:
without, with, with, without. A pair is two neighbours. The client is left out: it writes none.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from testbed.bench.client import Client
from testbed.bench.consensus import WARM_UP_S, run
from testbed.bench.limit import cpu_s
from testbed.bench.load import Device, Load, bench_policy, devices
from testbed.bench.network import Network
from testbed.bench.stage import Say, until
from testbed.report.pairing import Estimate, known, paired_ratio

__all__ = ["Plan", "Result", "measure"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Each pair is one turn of `turn_requests` without and one with traces."""

    replicas: int = 4
    in_flight: int = 1000
    payload_bytes: int = 512
    every: int = 1  # of so many requests one is traced
    pairs: int = 10
    turn_requests: int = 4000


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of one replica per request. `trace_bytes` of all replicas, per request."""

    schema: str = "testbed.bench.traces/1"
    plan: Plan
    without_us: list[float]
    with_us: list[float]
    ratio: Estimate
    trace_bytes: float


class _Side(msgspec.Struct):
    """One of the two networks."""

    network: Network
    load: Load
    client: Client
    spent_us: list[float] = []
    requests: int = 0


def measure(plan: Plan, say: Say) -> Result:
    """Raises LabFault."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        of = {every: devices(plan.in_flight) for every in (None, plan.every)}
        networks = {
            every: Network(
                Path(directory, f"every-{every}"),
                replicas=plan.replicas,
                policy=bench_policy(each),
                trace_every=every,
            )
            for every, each in of.items()
        }
        with networks[None] as without, networks[plan.every] as traced:
            say(f"starting {plan.replicas} replicas without and {plan.replicas} with traces")
            without.start()
            traced.start()
            sides = run(_turns(plan, [(without, of[None]), (traced, of[plan.every])], say))
            size = sum(traced.trace(n).stat().st_size for n in traced.replicas)
    return Result(
        plan=plan,
        without_us=sides[0].spent_us,
        with_us=sides[1].spent_us,
        ratio=paired_ratio(*([known(us) for us in side.spent_us] for side in sides)),
        trace_bytes=size / sides[1].requests,
    )


async def _turns(plan: Plan, parts: list[tuple[Network, list[Device]]], say: Say) -> list[_Side]:
    sides = []
    for network, of in parts:
        client = Client(network, body_source=plan.replicas - 1)
        await client.connect()
        load = Load(client, of, plan.payload_bytes)
        await until(f"enrolling {len(of)} devices", client, _enrolled(load), load.enrol(), say)
        sides.append(_Side(network, load, client))
    for pair in range(plan.pairs):
        for side in sides if pair % 2 == 0 else reversed(sides):
            await _turn(plan, side, say)
    for side in sides:
        await side.client.close()
    return sides


def _enrolled(load: Load) -> Callable[[], int]:
    return lambda: load.enrolled


async def _turn(plan: Plan, side: _Side, say: Say) -> None:
    load, client = side.load, side.client
    processes = [psutil.Process(side.network.pid(n)) for n in side.network.replicas]

    async def finish(count: int) -> None:
        while load.finished < count:
            await asyncio.sleep(0.005)

    load.start(plan.in_flight)
    await asyncio.sleep(WARM_UP_S)
    before_s, first = cpu_s(processes), load.finished
    work = finish(first + plan.turn_requests)
    await until("a turn", client, lambda: load.finished, work, say)
    spent_s, done = cpu_s(processes) - before_s, load.finished - first
    await until("waiting for the last requests", client, lambda: load.finished, load.stop(), say)
    side.spent_us.append(spent_s / done / plan.replicas * 1e6)
    side.requests = load.finished
