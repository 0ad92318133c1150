"""`testbed bench traces` and `testbed bench switch`: a replica's cost of tracing, or of a
campaign's switch without an order, as a paired ratio of CPU time.

Two networks run side by side, and one of them has the traces or the switch. They are under the same
load in turns: without, with, with, without. A pair is two neighbouring turns. The client is left
out: it has neither.
"""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from chain.genesis import Consensus
from testbed.bench.limit import cpu_s
from testbed.bench.load import BenchDevice, bench_policy, devices
from testbed.bench.network import ReplicaNetwork
from testbed.bench.session import BenchSession, run, session
from testbed.bench.stage import Say
from testbed.report.pairing import Estimate, known, paired_ratio

__all__ = ["BenchPlan", "BenchResult", "measure"]

PATIENCE_S = 60.0
RETRY_S = 5.0  # a replica that was too busy to take a request is asked again
# Long timeouts: on a busy machine, view changes and repeated requests would cost more than what is
# measured.
PATIENT = Consensus(
    view_timeout_us=round(PATIENCE_S * 1e6),
    view_timeout_us_max=round(PATIENCE_S * 1e6),
    message_delay_us=round(PATIENCE_S * 1e6),  # an older proposal is refused
)


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Each pair is one turn of `turn_requests` with, and one without, what is measured."""

    what: Literal["traces", "switch"] = "traces"

    replicas: int = 4
    in_flight: int = 1000
    payload_bytes: int = 512
    every: int = 1  # one in so many requests is traced
    pairs: int = 10
    turn_requests: int = 4000


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of one replica per request. `trace_bytes` of all replicas, per request."""

    schema: str = "testbed.bench.overhead/1"
    plan: BenchPlan
    without_us: list[float]
    with_us: list[float]
    ratio: Estimate
    trace_bytes: float


class _Side(msgspec.Struct):
    """One of the two networks."""

    network: ReplicaNetwork
    bench: BenchSession
    spent_us: list[float] = []
    requests: int = 0


def measure(plan: BenchPlan, say: Say) -> BenchResult:
    """Raises LabFault."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        of = {has: devices(plan.in_flight) for has in (False, True)}
        networks = {
            has: ReplicaNetwork(
                Path(directory, f"{has}"),
                replicas=plan.replicas,
                policy=bench_policy(each),
                consensus=PATIENT,
                trace_every=plan.every if has and plan.what == "traces" else None,
                switch=has and plan.what == "switch",
            )
            for has, each in of.items()
        }
        say(f"starting {plan.replicas} replicas without and {plan.replicas} with {plan.what}")
        with networks[False] as without, networks[True] as having:
            sides = run(_turns(plan, [(without, of[False]), (having, of[True])], say))
            traces = [path for n in having.replicas if (path := having.trace(n)).exists()]
            size = sum(path.stat().st_size for path in traces)
    return BenchResult(
        plan=plan,
        without_us=sides[0].spent_us,
        with_us=sides[1].spent_us,
        ratio=paired_ratio(*([known(us) for us in side.spent_us] for side in sides)),
        trace_bytes=size / sides[1].requests,
    )


async def _turns(
    plan: BenchPlan, parts: list[tuple[ReplicaNetwork, list[BenchDevice]]], say: Say
) -> list[_Side]:
    sides = []
    async with AsyncExitStack() as stack:
        for network, of in parts:
            opened = session(network, of, plan.payload_bytes, say, retry_s=RETRY_S)
            sides.append(_Side(network, await stack.enter_async_context(opened)))
        for pair in range(plan.pairs):
            for side in sides if pair % 2 == 0 else reversed(sides):
                await _turn(plan, side)
    return sides


async def _turn(plan: BenchPlan, side: _Side) -> None:
    load = side.bench.load
    processes = [psutil.Process(side.network.pid(n)) for n in side.network.replicas]
    before_s, first = cpu_s(processes), load.finished
    load.start(plan.in_flight)
    await side.bench.reach("a turn", lambda: load.finished, first + plan.turn_requests)
    await side.bench.drain()
    # Counted from the first request to the last answer, because many requests are in flight at
    # once.
    spent_s, done = cpu_s(processes) - before_s, load.finished - first
    side.spent_us.append(spent_s / done / plan.replicas * 1e6)
    side.requests = load.finished
