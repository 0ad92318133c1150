"""`testbed bench saturation`: open-loop load on real replicas, which rises until they cannot keep
up.

Thousands of devices in this process, each with its own key and one request in flight.
`nodes.device.sends` gives the intended times, and latency counts from them. If a send is due while
every device waits for an answer, it waits for a free device, and its latency grows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import msgspec
from hdrh.histogram import HdrHistogram

from nodes.device.sends import Gaps, Profile, intended_ms
from testbed.bench.load import BenchDevice, ClientLoad, bench_policy, devices
from testbed.bench.network import ReplicaNetwork
from testbed.bench.session import run, session
from testbed.bench.stage import Say
from testbed.profile import constant
from testbed.report.saturation import RateStep, Saturation, knee_of, saturated

__all__ = ["BenchPlan", "BenchResult", "measure"]

_DIGITS = 3  # of latencies, in microseconds
_STEPS_MAX = 64


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The first step offers `from_per_s`, each following step `growth` times the one before, until
    a step is saturated or would offer more than `to_per_s`."""

    replicas: int = 4
    devices: int = 1000
    payload_bytes: int = 512
    store: str = "sqlite"
    gaps: Gaps = "poisson"
    from_per_s: float = 100.0
    to_per_s: float = 20_000.0
    growth: float = 1.5
    step_s: float = 5.0
    timeout_s: float = 5.0
    seed: int = 1


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """`client_late_ms`, per step: how late this process itself was at most. Where that is more than
    a fraction of the latencies, the client was the bottleneck."""

    schema: str = "testbed.bench.saturation/1"
    plan: BenchPlan
    saturation: Saturation
    client_late_ms: tuple[float, ...]


def measure(plan: BenchPlan, say: Say = lambda _: None) -> BenchResult:
    """Raises LabFault."""
    of = devices(plan.devices)
    with TemporaryDirectory(prefix="bench-") as directory:
        policy = bench_policy(of)
        say(f"starting {plan.replicas} replicas, {plan.store} store")
        with ReplicaNetwork(
            Path(directory), replicas=plan.replicas, policy=policy, store=plan.store
        ) as network:
            steps, late_ms = run(_steps(plan, network, of, say))
    return BenchResult(plan=plan, saturation=knee_of(steps), client_late_ms=tuple(late_ms))


async def _steps(
    plan: BenchPlan, network: ReplicaNetwork, of: list[BenchDevice], say: Say
) -> tuple[list[RateStep], list[float]]:
    steps: list[RateStep] = []
    late_ms: list[float] = []
    per_s = plan.from_per_s
    async with session(network, of, plan.payload_bytes, say) as bench:
        load = bench.load
        while per_s <= plan.to_per_s and len(steps) < _STEPS_MAX:
            offered = _Offered(load, plan, per_s, len(steps))
            what = f"offering {per_s:,.0f}/s"
            await bench.until(what, lambda: load.finished, offered.play())
            steps.append(offered.step())
            late_ms.append(round(offered.late_s * 1000, 1))
            if saturated(steps[-1], steps[0]):
                break
            per_s *= plan.growth
    return steps, late_ms


class _Offered:
    """One step."""

    def __init__(self, load: ClientLoad, plan: BenchPlan, per_s: float, number: int) -> None:
        span = ("step", 0, round(plan.step_s * 1000))
        profile = Profile(gaps=plan.gaps, segments=constant(span, per_s))
        random = Random(f"{plan.seed}/{number}")  # noqa: S311 - repeatable, not secret
        self._intended_s = [at / 1000 for _, at in intended_ms(profile, random)]
        self._load = load
        self._plan = plan
        self._free = deque(load.devices)
        self._due: deque[float] = deque()
        self._timeout_us = round(plan.timeout_s * 1e6)
        self._taken_us = HdrHistogram(1, self._timeout_us, _DIGITS)
        self._in_time = 0
        self._open = len(self._intended_s)
        self.late_s = 0.0

    async def play(self) -> None:
        """Returns when every send is answered or its time is over."""
        start_s = time.perf_counter()
        for intended_s in self._intended_s:
            due_s = start_s + intended_s
            if (left_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(left_s)
            self.late_s = max(self.late_s, time.perf_counter() - due_s)
            self._due.append(due_s)
            self._send()
        end_s = start_s + self._plan.step_s + self._plan.timeout_s
        while self._open and time.perf_counter() < end_s:
            await asyncio.sleep(0.01)
        self._due.clear()  # their time is over
        await self._load.stop()  # the next step finds every device free
        for _ in range(self._open):
            self._taken_us.record_value(self._timeout_us)

    def _send(self) -> None:
        while self._due and self._free:
            device, due_s = self._free.popleft(), self._due.popleft()
            self._load.submit(device, self._done(device, due_s))

    def _done(self, device: BenchDevice, due_s: float) -> Callable[[str | None], None]:
        def done(reason: str | None) -> None:
            self._free.append(device)
            took_us = round((time.perf_counter() - due_s) * 1e6)
            if took_us < self._timeout_us and self._open:
                self._open -= 1
                self._in_time += reason is None
                self._taken_us.record_value(max(took_us, 1))
            self._send()

        return done

    def step(self) -> RateStep:
        ms = round(self._plan.step_s * 1000)
        p50_us, p99_us = (self._taken_us.get_value_at_percentile(each) for each in (50, 99))
        return RateStep(
            start_ms=0,
            end_ms=ms,
            offered_per_s=len(self._intended_s) / self._plan.step_s,
            goodput_per_s=self._in_time / self._plan.step_s,
            p50_ms=p50_us / 1000,
            p99_ms=p99_us / 1000,
        )
