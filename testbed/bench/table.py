"""The whole table of `testbed bench consensus --table`: replicas, stores and loads, one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import msgspec

from testbed.bench.consensus import BenchPlan, BenchResult, measure_all
from testbed.bench.stage import Say

__all__ = ["GOALS", "HEADER", "IN_FLIGHT", "REPLICAS", "ROUNDS", "STORES", "measure_table", "row"]

REPLICAS = (4, 7, 10)
IN_FLIGHT = (1, 100, 1000)
STORES = ("sqlite", "memory")
ROUNDS = 3
# The goal: the ratio of 4 replicas with 1,000 requests in flight, by store.
GOALS = {"sqlite": 0.75, "memory": 0.82}

HEADER = (
    "replicas",
    "in flight",
    "store",
    "requests/s",
    "limit/s",
    "ratio",
    "goal",
    "CPU ratio",
    "CPU us per request: replica / client",
    "p50 / p99 ms",
    "alone p50 ms",
    "requests per block",
    "RSS MB, largest",
    "load",
)


def measure_table(
    plan: BenchPlan, replicas: Sequence[int], in_flight: Sequence[int], rounds: int, say: Say
) -> Iterator[tuple[BenchResult, float]]:
    """Measures all. Each result comes with the machine's one-minute load after it. Raises
    LabFault."""
    for number in replicas:
        for store in STORES:
            each = msgspec.structs.replace(plan, replicas=number, store=store)
            for result in measure_all(each, in_flight, rounds, say):
                yield result, os.getloadavg()[0]


def row(result: BenchResult, load: float) -> tuple[str, ...]:
    plan, latency = result.plan, result.latency_ms
    return (
        str(plan.replicas),
        f"{plan.in_flight:,}",
        plan.store,
        f"{result.requests_per_s:,.0f}",
        f"{result.limit_per_s or 0:,.0f}",
        f"{result.ratio or 0:.2f}",
        f"{GOALS[plan.store]:.2f}" if (plan.replicas, plan.in_flight) == (4, 1000) else "",
        f"{result.cpu_ratio or 0:.2f}",
        f"{result.cpu_us_per_request:,.0f} / {result.cpu_us_client:,.0f}",
        f"{latency.p50:.1f} / {latency.p99:.1f}",
        f"{result.alone_ms.p50:.1f}",
        f"{result.requests / max(result.blocks, 1):.0f}",
        f"{max(result.rss_mb_end):.0f}",
        f"{load:.0f}",
    )
