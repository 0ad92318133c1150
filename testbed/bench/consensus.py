"""`testbed bench consensus`: real replica processes under signed load, against the limit.

Requests are signed by enrolled identities in a closed loop; every replica verifies every request
once and syncs its votes. The figures are ratios to the most that the same machine can verify in the
same minute, so they mean something on a shared machine too.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from testbed.bench.hops import HopMedian, LoneRequest, hops
from testbed.bench.limit import Limit, cpu_s, verification_limit
from testbed.bench.load import BenchDevice, bench_policy, devices
from testbed.bench.network import ReplicaNetwork
from testbed.bench.session import BenchSession, run, session
from testbed.bench.stage import Say

__all__ = ["BenchPlan", "BenchResult", "measure", "measure_all", "rss_mb"]

WARM_UP_S = 1.0
LIMIT_S = 1.5  # before each load and again after it: others may share the machine


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`requests`, if given, ends the measurement instead of `seconds`."""

    replicas: int = 4
    in_flight: int = 100
    payload_bytes: int = 512  # of a whole signed request
    store: str = "sqlite"
    seconds: float = 5.0
    requests: int | None = None
    alone_requests: int = 100  # one at a time, before the load
    verify_threads: int | None = None
    profile: str | None = None  # directory for one cProfile per replica
    limit: bool = True


class LatencyQuantiles(msgspec.Struct, frozen=True):
    p50: float
    p90: float
    p99: float
    max: float


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "testbed.bench.consensus/3"
    plan: BenchPlan
    requests: int
    blocks: int
    requests_per_s: float
    latency_ms: LatencyQuantiles
    alone_ms: LatencyQuantiles  # one request at a time, before the load
    alone_hops: list[HopMedian] = []  # where the time of such a request goes
    enrolments_per_s: float
    cpu_us_per_request: float  # of one replica, the mean over all
    cpu_us_client: float  # per request
    limit_per_s: float | None = None  # the verification limit, the mean of before and after
    ratio: float | None = None  # requests_per_s / limit_per_s
    cpu_ratio: float | None = None  # the same in CPU time: what the limit spends / what we spend
    rss_mb_start: list[float]
    rss_mb_end: list[float]


def measure(plan: BenchPlan, say: Say = lambda _: None) -> BenchResult:
    """The load of `plan`, and the hops of one request alone. Raises LabFault."""
    (result,) = measure_all(plan, (plan.in_flight,), 1, say)
    return msgspec.structs.replace(result, alone_hops=_alone_hops(plan, say))


def measure_all(
    plan: BenchPlan, in_flight: Sequence[int], rounds: int, say: Say
) -> list[BenchResult]:
    """Puts one network under each of the loads in turn, `rounds` times each. The round of median
    speed counts. `plan.in_flight` is ignored. Raises LabFault."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        of = devices(max(in_flight))
        profile = Path(plan.profile) if plan.profile is not None else None
        say(f"starting {plan.replicas} replicas, {plan.store} store")
        with _network(plan, directory, of, profile=profile) as network:
            return run(_under_loads(plan, network, of, in_flight, rounds=rounds, say=say))


def _network(
    plan: BenchPlan,
    directory: str,
    of: list[BenchDevice],
    *,
    profile: Path | None = None,
    trace_every: int | None = None,
) -> ReplicaNetwork:
    return ReplicaNetwork(
        Path(directory),
        replicas=plan.replicas,
        policy=bench_policy(of),
        store=plan.store,
        verify_threads=plan.verify_threads,
        profile=profile,
        trace_every=trace_every,
    )


def _alone_hops(plan: BenchPlan, say: Say) -> list[HopMedian]:
    """Takes the hops from another network, because traces would cost time in the measured one."""
    if not plan.alone_requests:
        return []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        of = devices(1)
        say(f"starting {plan.replicas} replicas with traces, {plan.store} store")
        with _network(plan, directory, of, trace_every=1) as network:
            asked = run(_traced(plan, network, of, say))
        return hops([network.trace(n) for n in network.replicas], asked)


async def _traced(
    plan: BenchPlan, network: ReplicaNetwork, of: list[BenchDevice], say: Say
) -> list[LoneRequest]:
    async with session(network, of, plan.payload_bytes, say) as bench:
        return await _alone(plan, bench)


async def _under_loads(
    plan: BenchPlan,
    network: ReplicaNetwork,
    of: list[BenchDevice],
    in_flight: Sequence[int],
    *,
    rounds: int,
    say: Say,
) -> list[BenchResult]:
    results = []
    async with session(network, of, plan.payload_bytes, say) as bench:
        gc.freeze()
        limit = await _limit(plan, say)
        for number in in_flight:
            each = msgspec.structs.replace(plan, in_flight=number)
            asked = await _alone(each, bench)
            alone = _latency([(one.answered_ns - one.sent_ns) / 1e9 for one in asked])
            bench.load.start(number)
            await asyncio.sleep(WARM_UP_S)
            found = [await _round(each, network, bench, alone) for _ in range(rounds)]
            await bench.drain()
            found.sort(key=lambda result: result.requests_per_s)
            before, limit = limit, await _limit(plan, say)
            results.append(_beside(found[len(found) // 2], before, limit))
    return results


async def _alone(plan: BenchPlan, bench: BenchSession) -> list[LoneRequest]:
    """One request at a time."""
    load, client = bench.load, bench.client
    asked: list[LoneRequest] = []

    async def ask() -> None:
        for _ in range(plan.alone_requests):
            sent_ns = time.monotonic_ns()
            request = await load.data(load.devices[0])
            asked.append(LoneRequest(request, client.height, sent_ns, time.monotonic_ns()))

    await bench.until("one request at a time", lambda: len(asked), ask())
    return asked


async def _round(
    plan: BenchPlan, network: ReplicaNetwork, bench: BenchSession, alone: LatencyQuantiles
) -> BenchResult:
    """What is measured while the load runs."""
    load, client = bench.load, bench.client
    processes = [psutil.Process(network.pid(n)) for n in network.replicas]
    own = [psutil.Process()]
    rss_start, cpu_start, own_start = rss_mb(processes), cpu_s(processes), cpu_s(own)
    finished, height = load.finished, client.height
    load.latencies_s.clear()
    start_s = time.perf_counter()

    what = f"measuring, {plan.in_flight} in flight"
    if plan.requests is not None:
        await bench.reach(what, lambda: load.finished, finished + plan.requests)
    else:
        await bench.until(what, lambda: load.finished, asyncio.sleep(plan.seconds))
    took_s = time.perf_counter() - start_s
    done, blocks = load.finished - finished, client.height - height
    spent_s, own_s = cpu_s(processes) - cpu_start, cpu_s(own) - own_start
    return BenchResult(
        plan=plan,
        requests=done,
        blocks=blocks,
        requests_per_s=done / took_s,
        latency_ms=_latency(load.latencies_s),
        alone_ms=alone,
        enrolments_per_s=bench.enrolments_per_s,
        cpu_us_per_request=spent_s / max(done, 1) / plan.replicas * 1e6,
        cpu_us_client=own_s / max(done, 1) * 1e6,
        rss_mb_start=rss_start,
        rss_mb_end=rss_mb(processes),
    )


async def _limit(plan: BenchPlan, say: Say) -> Limit | None:
    """Measures the limit beside the replicas, which are idle meanwhile."""
    if not plan.limit:
        return None
    say("measuring the verification limit")
    return await asyncio.to_thread(verification_limit, plan.replicas, plan.payload_bytes, LIMIT_S)


def _beside(result: BenchResult, before: Limit | None, after: Limit | None) -> BenchResult:
    """Adds the ratios to the limit, as measured before and after."""
    if before is None or after is None:
        return result
    per_s = (before.requests_per_s + after.requests_per_s) / 2
    spent_us = result.cpu_us_per_request * result.plan.replicas + result.cpu_us_client
    return msgspec.structs.replace(
        result,
        limit_per_s=per_s,
        ratio=result.requests_per_s / per_s,
        cpu_ratio=(before.cpu_us_per_request + after.cpu_us_per_request) / 2 / spent_us,
    )


def rss_mb(processes: list[psutil.Process]) -> list[float]:
    return [round(process.memory_info().rss / 1e6, 1) for process in processes]


def _latency(seconds: list[float]) -> LatencyQuantiles:
    ordered = sorted(seconds) or [0.0]

    def at(share: float) -> float:
        return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000, 3)

    return LatencyQuantiles(p50=at(0.5), p90=at(0.9), p99=at(0.99), max=at(1.0))
