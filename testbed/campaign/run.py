"""One run of a schedule on a deployment: phases and injections at their times.

Phases and events wait in one agenda. An event has a thread only from the moment it is armed until
it is verified. All injections are healed before this returns, also after an error or Ctrl-C. Each
step (planned, applied, observed, healed) is logged as it happens; `testbed.report` makes verdicts
later, from the files.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import IO, Any, Self

import msgspec

from nodes.device.workload import Go
from testbed.campaign.abort import aborts
from testbed.campaign.injection import Attack, Injection, Scene, Seen
from testbed.campaign.kinds import kinds
from testbed.campaign.schedule import Phase, Schedule, ScheduledEvent
from testbed.campaign.watch import Watch
from testbed.errors import LabFault
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["ARM_AHEAD_MS", "RunLog", "Runner", "armed_at_ms"]

ARM_AHEAD_MS = 1_000  # on a host that is not slow
START_MARGIN_MS = 500  # between sending the plans and the beginning of the run
DEAD_MAN_MS = 30_000  # if the campaign's guard is off
VERIFY_S_MAX = 30.0
SETTLE_S_MAX = 20.0
WAIT_S = 0.1
SEEN_S_MAX = 5.0
"""An effect that is over at once must be seen within this time."""
LOOK_S = 0.5
"""Between two looks while a fault lasts, so Ctrl-C and `testbed abort` end it within this time."""


class RunLog:
    """Append-only JSON lines of the orchestrator: phases, faults, attacks. Written at once."""

    def __init__(self, raw: Path) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, IO[str]] = {}
        self._raw = raw

    def write(self, name: str, **fields: Any) -> None:
        line = json.dumps({"t": time.time_ns(), "m": time.monotonic_ns(), **fields})
        with self._lock:
            if name not in self._files:
                self._files[name] = (self._raw / f"{name}.jsonl").open("a", buffering=1)
            self._files[name].write(line + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()


def armed_at_ms(event: ScheduledEvent, events: Sequence[ScheduledEvent], slowness: float) -> int:
    """When an event is armed: early enough that it takes effect on time even on a slow host.

    It is not armed early while another fault lasts, because that fault's undo may have the same
    name.
    """
    early_ms = round(event.at_ms - ARM_AHEAD_MS * slowness)
    for other in events:
        lasts = other.at_ms <= event.at_ms and other.at_ms + other.for_ms >= early_ms
        if other.id != event.id and other.category != "attack" and lasts:
            return event.at_ms
    return early_ms


class Runner:
    """Runs the schedule of one run (`Schedule.part`). `phase`, `elapsed_ms`, `struck` and
    `attacked` are for showing progress (`live.Source`)."""

    def __init__(
        self,
        schedule: Schedule,
        deployment: Deployment,
        watch: Watch,
        log: RunLog,
        captures: Path,
        *,
        inventory: Path | None,
    ) -> None:
        self._schedule = schedule
        self._trial = schedule.only
        self._deployment = deployment
        self._watch = watch
        self._log = log
        self._captures = captures
        self._inventory = inventory
        self._stop = threading.Event()
        self._start_ns = 0
        self._attacks: dict[str, Injection] = {}
        self._resolved: dict[str, Node] = {}
        self._resolving = threading.Lock()
        self.phase = "starting"
        self.struck: dict[str, tuple[ScheduledEvent, tuple[str, ...]]] = {}
        self.attacked: Counter[str] = Counter()

    @property
    def elapsed_ms(self) -> float:
        """Negative between sending the plans and the beginning of the run."""
        return (time.time_ns() - self._start_ns) / 1e6 if self._start_ns else 0.0

    @property
    def _slowness(self) -> float:
        """The slowness of the slowest host: all deadlines of a run are so many times longer."""
        return max(host.slowness for host in self._deployment.hosts.values())

    def run(self) -> None:
        """Returns when the last phase is over and the network has settled."""
        events = [event for event in self._trial.events if event.skipped is None]
        try:
            self._arm_attacks(events)
            self._hand_out_plans()
            # A thread is made only when no idle one is left.
            with ThreadPoolExecutor(max(1, len(events)), "event") as pool:
                try:
                    self._pass_agenda(events, pool)
                except BaseException:
                    self._stop.set()  # events end early, and each heals what it applied
                    self._watch.interrupt()
                    raise
            self._wait_until_settled()
        finally:
            with ExitStack() as stack:  # each in any case
                for attack in self._attacks.values():
                    stack.callback(attack.close)
                    stack.callback(attack.heal)

    def _hand_out_plans(self) -> None:
        start_ns = time.time_ns() + START_MARGIN_MS * 1_000_000
        plans = {}
        for device in self._trial.devices:
            if device.role == "board":
                continue
            plan = Go(
                start_ns=start_ns,
                enrol_at_ms=device.enrol_at_ms or 0,
                draws=device.draws,
                end_ms=self._schedule.run_ms,
                timeout_ms=self._schedule.workload.timeout_ms,
                seed=self._trial.seed,
            )
            plans[device.name] = msgspec.json.encode(plan)
        self._deployment.go(plans)
        self._start_ns = start_ns
        (run,) = self._schedule.runs
        self._log.write(
            "run", what="start", start_ns=start_ns, run=run.index, trial=run.trial, arm=run.arm
        )

    def _pass_agenda(self, events: Sequence[ScheduledEvent], pool: ThreadPoolExecutor) -> None:
        agenda: list[tuple[int, int, Callable[[], None]]] = []
        running: list[Future[None]] = []

        def plan(at_ms: int, action: Callable[[], None]) -> None:
            heapq.heappush(agenda, (at_ms, len(agenda), action))

        def begin(event: ScheduledEvent, arm_at_ms: int) -> None:
            running.append(pool.submit(self._carry_out, event, event.at_ms - arm_at_ms))

        for phase in self._schedule.phases:
            plan(phase.start_ms, partial(self._enter, phase))
        for event in events:
            arm_at_ms = event.at_ms
            if event.category != "attack":
                arm_at_ms = armed_at_ms(event, events, self._slowness)
            plan(arm_at_ms, partial(begin, event, arm_at_ms))
        while agenda:
            at_ms, _, action = heapq.heappop(agenda)
            self._wait_until(at_ms, running)
            action()
        self._wait_until(self._schedule.run_ms, running)
        self._log.write("run", what="end")
        self.phase = "settling"
        for future in running:
            future.result()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase.name
        self._log.write("run", what="phase", phase=phase.name, at_ms=phase.start_ms)

    def _wait_until(self, at_ms: int, running: list[Future[None]]) -> None:
        """Raises as soon as an event fails, because the run cannot count any more."""
        while (left_s := (at_ms - self.elapsed_ms) / 1000) > 0:
            for future in running:
                if future.done():
                    future.result()
            if self._watch.trouble:
                raise LabFault(self._watch.trouble[0])
            time.sleep(min(left_s, WAIT_S))

    # --- events -----------------------------------------------------------------------------------

    def _arm_attacks(self, events: Sequence[ScheduledEvent]) -> None:
        """Attacks are armed at the beginning, because an attacker listens from then on."""
        for event in events:
            if event.category == "attack" and event.fault not in self._attacks:
                attack = self._attacks[event.fault] = self._make(event)
                attack.arm()

    def _make(self, event: ScheduledEvent, ahead_ms: int = 0) -> Injection:
        kind = kinds().get(event.kind)
        mechanism = kind.mechanism(event.mechanism) if kind else None
        if mechanism is None:
            raise LabFault(f"{event.id}: this version has no {event.kind} by {event.mechanism}")
        return mechanism.make(self._scene(event, ahead_ms))

    def _carry_out(self, event: ScheduledEvent, ahead_ms: int) -> None:
        """Arm, apply, observe, heal, verify. Heal and close happen in any case."""
        attack = self._attacks.get(event.fault)
        injection = attack or self._make(event, ahead_ms)
        scene = injection.scene
        record = {"id": event.fault, "event": event.id, "kind": event.kind}
        self._log.write(
            "faults",
            step="planned",
            at_ms=event.at_ms,
            for_ms=event.for_ms,
            mechanism=event.mechanism,
            targets=scene.resolved,
            **record,
        )
        with nullcontext() if attack else closing(injection):
            try:
                if attack is None:
                    injection.arm()
                if not self._sleep_until(event.at_ms):
                    return
                self._apply(injection, event, record)
                self._hold(injection, event, record)
            finally:
                injection.heal()
                self.struck.pop(event.id, None)
                self._write(injection, "healed", record)
                if isinstance(injection, Attack):
                    sent = injection.take_sent()
                    self.attacked[event.fault] += len(sent.trials)
                    trials = list(sent.trials)
                    self._log.write("attacks", trials=trials, details=sent.details, **record)
        whole = self._stop.is_set() or injection.verify(VERIFY_S_MAX * self._slowness)
        self._write(injection, "verified", record, whole=whole)

    def _apply(
        self, injection: Injection, event: ScheduledEvent, record: Mapping[str, Any]
    ) -> None:
        injection.apply()
        if event.for_ms:
            names = [name for found in injection.scene.resolved.values() for name in found]
            self.struck[event.id] = (event, tuple(dict.fromkeys(names)))
        impaired = [injection.scene.node(name).name for name in event.impairs]
        self._write(injection, "applied", record, impaired=impaired)

    def _hold(self, injection: Injection, event: ScheduledEvent, record: Mapping[str, Any]) -> None:
        """Waits until its time is over, it is aborted or the run is cut off. Logs when it is
        seen."""
        seen = None
        while (left_s := (event.at_ms + event.for_ms - self.elapsed_ms) / 1000) > 0:
            if seen is not None:
                self._stop.wait(min(left_s, LOOK_S))
            elif (seen := injection.observe(min(left_s, LOOK_S))) is not None:
                self._write_seen(injection, seen, record)
            if self._stop.is_set():
                break
            if event.id in aborts(self._captures.parent):
                self._write(injection, "aborted", record)
                break
        if seen is None and not self._stop.is_set():
            seen = injection.observe(0.0 if event.for_ms else SEEN_S_MAX)
            self._write_seen(injection, seen, record)

    def _write_seen(
        self, injection: Injection, seen: Seen | None, record: Mapping[str, Any]
    ) -> None:
        found: dict[str, object] = {}
        if seen is not None:
            read_back = dict(seen.read_back)
            found = {"what": seen.what, "seen_ns": time.time_ns(), "read_back": read_back}
        self._write(injection, "observed", record, seen=seen is not None, **found)

    def _write(
        self, injection: Injection, step: str, record: Mapping[str, Any], **fields: Any
    ) -> None:
        targets = injection.scene.resolved
        self._log.write("faults", step=step, targets=targets, **record, **fields)

    def _sleep_until(self, at_ms: int) -> bool:
        """False if the run was stopped meanwhile."""
        return not self._stop.wait(max(0.0, (at_ms - self.elapsed_ms) / 1000))

    def _scene(self, event: ScheduledEvent, ahead_ms: int = 0) -> Scene:
        dead_man_ms = (self._schedule.dead_man_ms or DEAD_MAN_MS) * self._slowness
        return Scene(
            event=event,
            deployment=self._deployment,
            watch=self._watch,
            primary=partial(self._primary, event),
            rng=Random(f"{self._trial.seed}/{event.id}"),  # noqa: S311 - repeatable, not secret
            captures=self._captures,
            inventory=self._inventory,
            stop=self._stop,
            undo_after_s=(ahead_ms + event.for_ms + dead_man_ms) / 1000,
        )

    def _primary(self, event: ScheduledEvent) -> Node:
        """Decides now which replica `primary` is. Overlapping events mean the same one."""
        with self._resolving:
            if event.id not in self._resolved:
                found = self._overlapping_primary(event) or self._watch.primary()
                self._resolved[event.id] = found
            return self._resolved[event.id]

    def _overlapping_primary(self, event: ScheduledEvent) -> Node | None:
        for other in self._trial.events:
            if (
                other.id in self._resolved
                and other.at_ms <= event.at_ms < other.at_ms + other.for_ms
            ):
                return self._resolved[other.id]
        return None

    def _wait_until_settled(self) -> None:
        """Wait until everything sent is answered and everyone has caught up. If SETTLE_S_MAX
        (longer on slow hosts) is over before, that is no error: the files show what is missing.
        """
        with suppress(LabFault):
            settled = self._watch.wait_for(self._all_done, SETTLE_S_MAX * self._slowness)
            self._log.write(
                "run",
                what="settled",
                settled=settled,
                heights={replica.name: replica.height for replica in self._watch.replicas},
                unfinished=[view.name for view in self._watch.devices if not view.counts["done"]],
            )

    def _all_done(self) -> bool:
        heights = {replica.height for replica in self._watch.replicas}
        return len(heights) == 1 and all(view.counts["done"] for view in self._watch.devices)
