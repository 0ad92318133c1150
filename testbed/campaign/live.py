"""The state of a run at this moment: one snapshot, for the live view and for `testbed watch`.

`SnapshotMaker` makes snapshots from the watch and the runner; `Published` writes the newest one to
a file of the bundle, for other processes. `live_text` makes lines of text of it. Nothing here
decides anything.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Protocol, Self

import msgspec

from testbed.bundle import LIVE
from testbed.campaign.schedule import Schedule, ScheduledEvent
from testbed.campaign.watch import NodeView, Watch
from testbed.grouped import grouped

__all__ = [
    "DOWN",
    "DeviceNow",
    "Live",
    "Published",
    "ReplicaNow",
    "SnapshotMaker",
    "Source",
    "read_live",
]

EVERY_S = 0.5
RATE_S = 5.0  # rates are means over this time
NEWEST = 50  # so many latencies of each device count
DEVICES_MAX = 200  # latencies of so many devices count
LIVE_BYTES_MAX = 4 * 1024 * 1024

DOWN = frozenset(
    {"process.crash", "process.stop", "process.restart-storm", "gateway.destroy"}
    | {"host.power-cut", "host.reboot", "broker.kill"}
)


class ReplicaNow(msgspec.Struct, frozen=True):
    name: str
    view: int
    height: int
    phase: str
    primary: bool


class DeviceNow(msgspec.Struct, frozen=True):
    name: str
    state: str
    data: int
    last_ms: float | None
    owner: bool = True  # has a key of its own; a board has none


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """`which` says which run of how many this is; empty if there is only one. `struck` are the
    faults in force and `attacks` what was sent so far, in words."""

    campaign: str
    which: str = ""
    step: str = ""
    phase: str = ""
    elapsed_s: float = 0.0
    total_s: float = 0.0
    struck: tuple[str, ...] = ()
    next: str = ""
    attacks: tuple[str, ...] = ()
    view: int = 0
    height: int = 0
    blocks_per_s: float = 0.0
    answers_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    late: int = 0
    denied: int = 0
    replicas: tuple[ReplicaNow, ...] = ()
    devices: tuple[DeviceNow, ...] = ()


class Source(Protocol):
    """The state of a run, as the runner has it. `struck` are the faults in force, by event, with
    the names of their targets; `attacked` counts the logged trials of each attack."""

    phase: str
    attacked: Counter[str]

    @property
    def struck(self) -> Mapping[str, tuple[ScheduledEvent, tuple[str, ...]]]: ...

    @property
    def elapsed_ms(self) -> float: ...


class SnapshotMaker:
    """Makes snapshots of one run."""

    def __init__(self, watch: Watch, runner: Source, schedule: Schedule) -> None:
        self._watch = watch
        self._runner = runner
        self._schedule = schedule
        self._events = [event for event in schedule.only.events if event.skipped is None]
        self._lock = threading.Lock()  # screen and file use it from two threads
        self._counted: deque[tuple[float, int, int]] = deque()  # when, blocks, answers

    def __call__(self) -> Live:
        with self._lock:
            return self._now()

    def _now(self) -> Live:
        watch, runner = self._watch, self._runner
        at_ms = min(max(0.0, runner.elapsed_ms), self._schedule.run_ms)
        height = watch.tip()
        blocks_per_s, answers_per_s = self._rates(height)
        p50_ms, p99_ms = _latencies(watch.devices)
        primary = watch.primary().name
        return Live(
            campaign=self._schedule.campaign,
            phase=runner.phase,
            elapsed_s=at_ms / 1000,
            total_s=self._schedule.run_ms / 1000,
            struck=tuple(
                _struck(event, names, at_ms) for event, names in list(runner.struck.values())
            ),
            next=self._next(at_ms),
            attacks=tuple(self._attacks(at_ms, runner.attacked)),
            view=watch.current_view(),
            height=height,
            blocks_per_s=blocks_per_s,
            answers_per_s=answers_per_s,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            late=sum(seen.counts["late"] for seen in watch.devices),
            denied=sum(seen.counts["denied"] for seen in watch.devices),
            replicas=tuple(
                ReplicaNow(r.name, r.view, r.height, r.phase or r.state, r.name == primary)
                for r in watch.replicas
            ),
            devices=(
                *(DeviceNow(d.name, d.state, d.counts["data"], _last(d)) for d in watch.devices),
                *(
                    DeviceNow(name, state, 0, None, owner=False)
                    for name, state in watch.boards.items()
                ),
            ),
        )

    def _rates(self, height: int) -> tuple[float, float]:
        now_s = time.monotonic()
        answers = sum(seen.counts["data"] + seen.counts["admitted"] for seen in self._watch.devices)
        self._counted.append((now_s, height, answers))
        while now_s - self._counted[0][0] > RATE_S:
            self._counted.popleft()
        began_s, blocks_then, answers_then = self._counted[0]
        took_s = now_s - began_s
        if took_s <= 0:
            return 0.0, 0.0
        return (height - blocks_then) / took_s, (answers - answers_then) / took_s

    def _next(self, at_ms: float) -> str:
        coming = [event for event in self._events if event.at_ms > at_ms]
        if not coming:
            return ""
        first = min(coming, key=lambda event: event.at_ms)
        return f"{first.fault} in {_seconds(first.at_ms - at_ms)}"

    def _attacks(self, at_ms: float, attacked: Counter[str]) -> Sequence[str]:
        attacks = (event for event in self._events if event.category == "attack")
        return [
            f"{name}: {sum(event.at_ms <= at_ms for event in events)} of {len(events)} begun, "
            f"{attacked[name]} trials"
            for name, events in grouped(attacks, lambda event: event.fault).items()
        ]


def _struck(event: ScheduledEvent, names: Sequence[str], at_ms: float) -> str:
    what = "DOWN" if event.kind in DOWN else event.kind
    left_ms = event.at_ms + event.for_ms - at_ms
    heals = f"heals in {_seconds(left_ms)}" if left_ms > 0 else "is being healed"
    return f"{', '.join(names) or 'lab'} {what} ({event.fault}), {heals}"


def _seconds(ms: float) -> str:
    return f"{max(0, round(ms / 1000))} s"


def _last(seen: NodeView) -> float | None:
    return seen.latencies_ms[-1] if seen.latencies_ms else None


def _latencies(devices: Sequence[NodeView]) -> tuple[float | None, float | None]:
    """Median and p99 of the newest answers. Another thread may add some meanwhile."""
    found: list[float] = []
    for seen in devices[:DEVICES_MAX]:
        with contextlib.suppress(RuntimeError):
            found += list(seen.latencies_ms)[-NEWEST:]
    if not found:
        return None, None
    found.sort()
    if len(found) < 2:
        return found[0], found[0]
    parts = quantiles(found, n=100, method="inclusive")
    return parts[49], parts[98]


class Published:
    """Within the `with` block, the file has the newest result of `look`, with the current `step`. A
    full disk is ignored."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LIVE
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self.look: Callable[[], Live] = lambda: Live(campaign="")
        self.step = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        part = self._path.with_name(f".{LIVE}.part")
        while not self._done.wait(EVERY_S):
            with contextlib.suppress(OSError):
                live = msgspec.structs.replace(self.look(), step=self.step)
                part.write_bytes(msgspec.json.encode(live))
                part.replace(self._path)
        part.unlink(missing_ok=True)


def read_live(folder: Path) -> Live | None:
    """What `Published` wrote last; None if no run is going on in this bundle."""
    path = folder / LIVE
    try:
        if path.is_symlink() or path.stat().st_size > LIVE_BYTES_MAX:
            return None
        return msgspec.json.decode(path.read_bytes(), type=Live)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
