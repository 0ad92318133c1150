"""One run of a schedule on a deployment: phases, faults and attacks at their times.

Whatever happens (an error, Ctrl-C), faults are healed and attackers are stopped before this
returns. What was planned, applied, observed and healed is written down as it happens; verdicts are
made later, from the files (`testbed.report`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import msgspec

from nodes.device.workload import Go
from testbed.campaign.abort import aborts
from testbed.campaign.injection import Attack, AttackMaker, Fault, FaultMaker, Scene
from testbed.campaign.kinds import kinds
from testbed.campaign.schedule import Event, Schedule
from testbed.campaign.selectors import is_symbolic
from testbed.campaign.watch import Watch
from testbed.errors import LabFault
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["ARM_AHEAD_MS", "RunLog", "Runner", "armed_at_ms"]

ARM_AHEAD_MS = 1_000  # on a host that is not slow
START_MARGIN_MS = 500  # between handing out the plans and the beginning of the run
DEAD_MAN_MS = 30_000  # where the campaign's guard is off
VERIFY_S_MAX = 30.0
SETTLE_S_MAX = 20.0
LOOK_S = 0.5
"""Between two looks, while a fault lasts: Ctrl-C and `testbed abort` end it so soon."""


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()


def armed_at_ms(event: Event, events: Sequence[Event], slowness: float) -> int:
    """When a fault is armed: so far ahead of its time that it strikes on time on a slow host.

    Not ahead where its target is known at the time itself only (`primary`), nor while another fault
    lasts, whose undo may have the same name.
    """
    if any(is_symbolic(target) for targets in event.targets.values() for target in targets):
        return event.at_ms
    early_ms = round(event.at_ms - ARM_AHEAD_MS * slowness)
    for other in events:
        lasts = other.at_ms <= event.at_ms and other.at_ms + other.for_ms >= early_ms
        if other.id != event.id and other.category != "attack" and lasts:
            return event.at_ms
    return early_ms


class Runner:
    """Runs the schedule of one run (`Schedule.part`). `phase` and `elapsed_ms` are for whoever
    shows progress."""

    def __init__(
        self, schedule: Schedule, deployment: Deployment, watch: Watch, log: RunLog, captures: Path
    ) -> None:
        self._schedule = schedule
        self._trial = schedule.only
        self._deployment = deployment
        self._watch = watch
        self._log = log
        self._captures = captures
        self._stop = threading.Event()
        self._start_ns = 0
        self._attacks: dict[str, Attack] = {}
        self._resolved: dict[str, Node] = {}
        self._resolving = threading.Lock()
        self.phase = "starting"

    @property
    def elapsed_ms(self) -> float:
        """Negative for the moment between handing out the plans and the beginning of the run."""
        return (time.time_ns() - self._start_ns) / 1e6 if self._start_ns else 0.0

    @property
    def _slowness(self) -> float:
        """Of the slowest host: all deadlines of a run are so many times longer."""
        return max(host.slowness for host in self._deployment.hosts.values())

    def run(self) -> None:
        """Until the last phase is over and the network has settled."""
        events = self._trial.events
        try:
            self._prepare_attacks()
            self._hand_out_plans()
            with ThreadPoolExecutor(max(1, len(events)), "event") as pool:
                futures = [pool.submit(self._carry_out, event) for event in events]
                try:
                    self._pass_phases(futures)
                except BaseException:
                    self._stop.set()  # events end early, each healing what it applied
                    raise
            for future in futures:
                future.result()
            self._settle()
        finally:
            for attack in self._attacks.values():
                attack.close()

    def _hand_out_plans(self) -> None:
        start_ns = time.time_ns() + START_MARGIN_MS * 1_000_000
        plans = {}
        for device in self._trial.devices:
            if device.role == "board":
                continue
            plan = Go(
                start_ns=start_ns,
                enrol_at_ms=device.enrol_at_ms or 0,
                sends_ms=tuple(sorted(at for times in device.sends_ms.values() for at in times)),
                end_ms=self._schedule.run_ms,
                timeout_ms=self._schedule.workload.timeout_ms,
            )
            plans[device.name] = msgspec.json.encode(plan)
        self._deployment.go(plans)
        self._start_ns = start_ns
        (run,) = self._schedule.runs
        self._log.write(
            "run", what="start", start_ns=start_ns, run=run.index, trial=run.trial, arm=run.arm
        )

    def _pass_phases(self, futures: list[Future[None]]) -> None:
        for phase in self._schedule.phases:
            self._wait_until(phase.start_ms, futures)
            self.phase = phase.name
            self._log.write("run", what="phase", phase=phase.name, at_ms=phase.start_ms)
        self._wait_until(self._schedule.run_ms, futures)
        self._log.write("run", what="end")
        self.phase = "settling"

    def _wait_until(self, at_ms: int, futures: list[Future[None]]) -> None:
        """Also ends as soon as an event fails: the run is spoilt then."""
        while (left_s := (at_ms - self.elapsed_ms) / 1000) > 0:
            for future in futures:
                if future.done():
                    future.result()
            if self._watch.trouble:
                raise LabFault(self._watch.trouble[0])
            time.sleep(min(left_s, 0.1))

    # --- events -----------------------------------------------------------------------------------

    def _prepare_attacks(self) -> None:
        for event in self._trial.events:
            if event.category == "attack" and event.fault not in self._attacks:
                attack = cast(AttackMaker, kinds()[event.kind].make)(self._scene(event))
                self._attacks[event.fault] = attack
                attack.prepare()

    def _carry_out(self, event: Event) -> None:
        if event.category == "attack":
            if not self._sleep_until(event.at_ms):
                return
            attempt = self._attacks[event.fault].attempt()
            self._log.write(
                "attacks",
                id=event.fault,
                event=event.id,
                kind=event.kind,
                trials=list(attempt.trials),
                details=attempt.details,
            )
        else:
            self._inject(event)

    def _inject(self, event: Event) -> None:
        """Arm, apply, observe, heal, verify; healed in any case once it was armed."""
        arm_at_ms = armed_at_ms(event, self._trial.events, self._slowness)
        if not self._sleep_until(arm_at_ms):
            return
        scene = self._scene(event, event.at_ms - arm_at_ms)
        fault = cast(FaultMaker, kinds()[event.kind].make)(scene)
        names = {key: [node.name for node in nodes] for key, nodes in scene.targets.items()}
        record = {"id": event.fault, "event": event.id, "kind": event.kind, "targets": names}
        self._log.write("faults", step="planned", at_ms=event.at_ms, for_ms=event.for_ms, **record)
        fault.arm()
        try:
            if not self._sleep_until(event.at_ms):
                return
            fault.apply()
            self._log.write("faults", step="applied", **record)
            self._hold(fault, event, record)
        finally:
            fault.heal()
            self._log.write("faults", step="healed", **record)
        whole = self._stop.is_set() or fault.verify(VERIFY_S_MAX * self._slowness)
        self._log.write("faults", step="verified", whole=whole, **record)

    def _hold(self, fault: Fault, event: Event, record: Mapping[str, Any]) -> None:
        """Until its time is over, it is aborted or the run is cut off. Notes when it is seen."""
        seen = False
        while (left_s := (event.at_ms + event.for_ms - self.elapsed_ms) / 1000) > 0:
            if seen:
                self._stop.wait(min(left_s, LOOK_S))
            elif seen := fault.observe(min(left_s, LOOK_S)):
                self._log.write("faults", step="observed", seen=True, **record)
            if self._stop.is_set():
                break
            if event.id in aborts(self._captures.parent):
                self._log.write("faults", step="aborted", **record)
                break
        if not seen:
            self._log.write("faults", step="observed", seen=False, **record)

    def _sleep_until(self, at_ms: int) -> bool:
        """False if the run was stopped meanwhile."""
        return not self._stop.wait(max(0.0, (at_ms - self.elapsed_ms) / 1000))

    def _scene(self, event: Event, ahead_ms: int = 0) -> Scene:
        dead_man_ms = (self._schedule.dead_man_ms or DEAD_MAN_MS) * self._slowness
        return Scene(
            event=event,
            deployment=self._deployment,
            watch=self._watch,
            targets={
                key: tuple(self._resolve(event, name) for name in names)
                for key, names in event.targets.items()
            },
            seed=self._trial.seed,
            captures=self._captures,
            undo_after_s=(ahead_ms + event.for_ms + dead_man_ms) / 1000,
        )

    def _resolve(self, event: Event, name: str) -> Node:
        """`primary` and `backup(K)` become replicas now; overlapping events mean the same one."""
        if name != "primary" and not name.startswith("backup("):
            return self._deployment.node(name)
        with self._resolving:
            primary = self._overlapping_primary(event) or self._watch.primary()
            self._resolved[event.id] = primary
        if name == "primary":
            return primary
        replicas = self._deployment.with_role("replica")
        steps = int(name.removeprefix("backup(").removesuffix(")"))
        return replicas[(primary.index + steps) % len(replicas)]

    def _overlapping_primary(self, event: Event) -> Node | None:
        for other in self._trial.events:
            if (
                other.id in self._resolved
                and other.at_ms <= event.at_ms < other.at_ms + other.for_ms
            ):
                return self._resolved[other.id]
        return None

    def _settle(self) -> None:
        """Wait until everything sent is answered and everyone has caught up, or SETTLE_S_MAX
        (longer on slow hosts) is over. That is no error: the files show what is missing.
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
