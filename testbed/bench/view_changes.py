"""The cost of a view change with many replicas: messages, bytes and memory, in simulated time.

The simulator runs the replicas' own code in one process (`testbed.simulate`). The chain has passed
a checkpoint, and several proposals are on their way. Then the first primary dies for good and the
network fails for a moment. So VIEW-CHANGEs contain a proof of the checkpoint and certificates. The
bench counts messages by kind until the last survivor is in a new view. Only the memory depends on
the machine, through its allocator.
"""

from __future__ import annotations

import resource
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec

from chain.pbft.messages import decode_body, decode_signed
from testbed.errors import LabFault
from testbed.simulate.draw import Options, draw
from testbed.simulate.machine import Machine
from testbed.simulate.network import healthy
from testbed.simulate.scenario import (
    GATEWAY,
    Event,
    EventKind,
    Scenario,
    links_among,
    request,
)
from testbed.simulate.transcript import Transcript
from testbed.simulate.world import Hardware, run

__all__ = ["ViewChangeCost", "measure_view_changes"]

_CRASH_US = 1_500_000
_LAST_US = 2_000_000
_CUT_US = 300_000  # less than the view timeout
_STATUS_US = 2_000_000  # lost messages are not sent again before the view changes
_DEVICES = 6  # each enrolled in a block of its own, so that there is a checkpoint
_APART_US = 2_000  # between the last requests before the crash
_INTERVAL = 4  # blocks between checkpoints: a NEW-VIEW of 100 replicas fits into a frame
_SEED = 1


class ViewChangeCost(msgspec.Struct, frozen=True, kw_only=True):
    """`messages` and `bytes` are by kind, from all replicas together. `largest` is the longest
    frame of each kind. `views` says how many views the survivors left before all were in one."""

    replicas: int
    checkpoint_interval: int
    seconds: float
    views: int
    messages: dict[str, int]
    bytes: dict[str, int]
    largest: dict[str, int]
    rss_growth_bytes: int

    @property
    def received_bytes(self) -> float:
        """The bytes that each survivor received, on average."""
        return sum(self.bytes.values()) / (self.replicas - 1)


def measure_view_changes(replicas: int) -> ViewChangeCost:
    """In a process of its own, so that memory is this run's. Raises LabFault."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, replicas).result()


def _measure(replicas: int) -> ViewChangeCost:
    scenario = _scenario(replicas)
    count = _Count(scenario)
    # A run with hardware given, even of the usual kind, has no limit of steps.
    outcome = run(scenario, count, Hardware(Machine, healthy(scenario.spread_us)))
    if outcome.finding is not None:
        raise LabFault(f"the view change of {replicas} replicas: {outcome.finding}")
    return ViewChangeCost(
        replicas=replicas,
        checkpoint_interval=scenario.consensus.checkpoint_interval,
        seconds=round((count.entered_us - _CRASH_US) / 1e6, 3),
        views=max(count.views.values()),
        messages=dict(count.messages),
        bytes=dict(count.bytes),
        largest=dict(count.largest),
        rss_growth_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        - count.rss_bytes,
    )


def _scenario(replicas: int) -> Scenario:
    scenario = draw(Options(replicas=replicas, faults="none"), _SEED)
    asked = [request(_CRASH_US - _APART_US * (_DEVICES - n), n, n) for n in range(_DEVICES)]
    cut = Event(
        at_us=_CRASH_US,
        kind=EventKind.BLOCK,
        duration_us=_CUT_US,
        links=links_among(range(replicas)),
    )
    crash = Event(at_us=_CRASH_US, kind=EventKind.CRASH, nodes=(0,), detail="lost")
    return msgspec.structs.replace(
        scenario,
        events=tuple(sorted([*asked, cut, crash], key=lambda event: event.at_us)),
        survivors=tuple(range(1, replicas)),
        heal_us=_LAST_US,
        skews_us=(0,) * replicas,
        turn_us=1_000,
        spread_us=5_000,
        devices=_DEVICES,
        consensus=msgspec.structs.replace(
            scenario.consensus,
            batch_requests_max=1,
            pipeline_window=8,
            view_timeout_us=800_000,
            status_interval_us=_STATUS_US,
            checkpoint_interval=_INTERVAL,
        ),
        keep_data_blocks=None,
    )


class _Count(Transcript):
    """Counts messages instead of printing them."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.largest: dict[str, int] = {}
        self.views: Counter[str] = Counter()
        self.entered_us = 0
        self.rss_bytes = 0
        self._survivors = len(scenario.survivors)
        self._crashed = False
        self._frame: tuple[bytes, str] = (b"", "")

    def fault(self, now_us: int, event: Event, *, over: bool) -> None:
        self._crashed = True
        pages = Path("/proc/self/statm").read_text().split()[1]
        self.rss_bytes = int(pages) * resource.getpagesize()

    def line(self, now_us: int, text: str) -> None:
        replica, event, *_ = text.split()
        if event == "view" and self._crashed:
            self.views[replica] += 1
            self.entered_us = now_us

    def sent(self, now_us: int, sender: int, to: int, frame: bytes) -> None:
        if not self._crashed or len(self.views) == self._survivors or to >= GATEWAY:
            return
        if frame is not self._frame[0]:  # a broadcast is one frame, sent to each
            message = decode_body(decode_signed(frame).body)
            self._frame = frame, type(message).__name__
        kind = self._frame[1]
        self.messages[kind] += 1
        self.bytes[kind] += len(frame)
        self.largest[kind] = max(self.largest.get(kind, 0), len(frame))
