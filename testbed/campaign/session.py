"""A campaign from schedule to bundle: open the hosts once, then for each run deploy, run, collect.

`testbed run` and `testbed resume` use it. All runs share the hosts, the lease and the check of our
code; each run has its own chain and begins on clean hosts. The files of an interrupted or failed
run are kept, and the run is marked: no measurement is lost, and no incomplete run looks finished.
`book` keeps the bundle; `testbed.report` reads the files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from inventory.model import Lab
from testbed.bundle import Bundle, RunFolder
from testbed.campaign.between import assert_clean, clean_up, unclean
from testbed.campaign.book import begin
from testbed.campaign.hosts import opened_hosts
from testbed.campaign.kinds import equip
from testbed.campaign.live import Published, SnapshotMaker
from testbed.campaign.progress import Progress
from testbed.campaign.reach import Reach
from testbed.campaign.run import RunLog, Runner
from testbed.campaign.schedule import Schedule
from testbed.campaign.watch import Watch
from testbed.care.clock import require_near
from testbed.care.conditions import limits_of
from testbed.care.dead_man import survives_restarts
from testbed.care.energy import meters_of
from testbed.care.host_watch import HostWatch
from testbed.care.lease import Lease
from testbed.errors import LabFault, RestoreIncompleteError, without_fixes
from testbed.hosts.opening import limited
from testbed.hosts.port import Host
from testbed.manifest import RunEntry
from testbed.provision.collect import collect
from testbed.provision.deployment import Deployment
from testbed.systems.known import find_system

__all__ = ["FAILED_IN_A_ROW_MAX", "JudgeRun", "Session"]

FAILED_IN_A_ROW_MAX = 3
"""After so many failed runs in a row the lab counts as broken, and the campaign stops."""

JudgeRun = Callable[[RunFolder], str | None]
"""Judges a run's raw files; returns the reason if nothing can be said of the run."""


class Session:
    """Makes the runs of a bundle that are not complete yet, on one lab. `inventory` is the lab's
    file, None for the packaged one."""

    def __init__(
        self,
        lab: Lab,
        schedule: Schedule,
        bundle: Bundle,
        progress: Progress,
        judge: JudgeRun,
        *,
        inventory: Path | None = None,
    ) -> None:
        self._lab = lab
        self._schedule = schedule
        self._bundle = bundle
        self._progress = progress
        self._judge = judge
        self._inventory = inventory
        self._lost: list[str] = []  # problems of hosts whose lease was lost
        self._reach: Reach | None = None
        self._published = Published(bundle.path)

    def make(self, todo: Iterable[RunEntry], *, after_a_crash: bool = False) -> None:
        """Make these runs; the bundle holds everything raw when this returns or raises.

        With `after_a_crash` hosts are restored first, because what is left there is ours. A run in
        which the lab failed is marked, and the next one is begun if the hosts are clean. Raises
        LabFault if it was the only run, or the last of FAILED_IN_A_ROW_MAX. If it ends early, it
        shows how to continue.
        """
        try:
            self._make(list(todo), after_a_crash=after_a_crash)
        except BaseException:
            runs = self._bundle.runs
            complete = sum(run.entry.complete for run in runs)
            if not all(run.entry.complete and run.is_derived for run in runs):
                self._progress.hide()
                for line in self._reach.lines if self._reach else ():
                    self._progress.note(line)
                self._progress.note(f"complete: {complete} of {len(runs)} runs; continue with:")
                self._progress.note(f"  testbed resume {self._bundle.typed}")
            raise

    def _make(self, runs: list[RunEntry], *, after_a_crash: bool) -> None:
        with ExitStack() as stack:
            hosts, python = stack.enter_context(opened_hosts(self._lab))
            stack.enter_context(self._published)
            remote = {name: hosts[name] for name in limited(self._lab, None)}
            lease = stack.enter_context(Lease(remote))
            lease.on_lost = self._lost.append
            if after_a_crash and remote:
                self._say("restoring the hosts")
                clean_up(remote)
            failed = 0
            for number, entry in enumerate(runs):
                assert_clean(hosts)
                if number and self._schedule.cooldown_ms:
                    self._say(f"cooling down for {self._schedule.cooldown_ms / 1000:g} s")
                    time.sleep(self._schedule.cooldown_ms / 1000)
                self._progress.begin(entry, number, len(runs), self._schedule.run_ms)
                try:
                    self._one(entry, hosts, python)
                    failed = 0
                except LabFault as fault:
                    failed += 1
                    if len(runs) == 1 or failed == FAILED_IN_A_ROW_MAX or self._lost:
                        raise
                    self._progress.note(f"run {entry.index} failed: {fault}")
            if left := unclean(hosts):
                raise RestoreIncompleteError(left)

    def _one(self, entry: RunEntry, hosts: Mapping[str, Host], python: Mapping[str, str]) -> None:
        """Makes one run, from fresh keys to verdict. Its entry in the manifest is correct at all
        times."""
        try:
            run = begin(self._bundle, entry)
            self.deploy_and_run(run, self._schedule.part(entry.index), hosts, python)
        except BaseException as error:
            by_hand = isinstance(error, KeyboardInterrupt)
            self._end(entry, "failed", "interrupted" if by_hand else without_fixes(error))
            raise
        self._end(entry, "done", None)
        self._say("checking ledgers and logs")
        if (reason := self._judge(run)) is not None:
            self._end(entry, "invalid", reason)

    def deploy_and_run(
        self,
        run: RunFolder,
        schedule: Schedule,
        hosts: Mapping[str, Host],
        python: Mapping[str, str],
    ) -> None:
        """One run on hosts that are open. Raises LabFault."""
        with ExitStack() as stack:
            log = stack.enter_context(RunLog(run.raw))
            system = find_system(schedule.system)
            deployment = Deployment(self._lab, hosts, python, self._say, system)
            stack.callback(self._bring_home, deployment, run)
            stack.enter_context(deployment)
            deployment.set_up()
            run.write("genesis.json", deployment.material.genesis.encode())
            # Both arms get this, so that a baseline differs only in the events.
            trials = self._schedule.trials
            events = [event for trial in trials for event in trial.events if event.mechanism]
            equip({(event.kind, event.mechanism) for event in events}, deployment)
            if schedule.trace_every:
                deployment.trace(schedule.trace_every)
            deployment.start()
            if any(event.category != "attack" for event in schedule.only.events):
                remote = [hosts[name] for name in limited(self._lab, None)]
                stack.enter_context(survives_restarts(remote))
            self._reach = reach = Reach(self._progress.note, log.write)
            outside = HostWatch(
                hosts,
                python,
                log.write,
                limits_of(self._lab),
                answered=reach.answered,
                silent=reach.silent,
                meters=meters_of(self._lab),
            )
            stack.callback(outside.stop)
            require_near(self._lab, outside.start())
            watch = Watch(deployment, reach)
            watch.trouble = self._lost
            stack.callback(watch.close)
            watch.start()
            runner = Runner(schedule, deployment, watch, log, run.raw, inventory=self._inventory)
            stack.callback(self._progress.hide)
            look = SnapshotMaker(watch, runner, schedule)
            self._published.look, self._published.step = look, ""
            self._progress.show(look)
            runner.run()

    def _say(self, step: str) -> None:
        self._published.step = step
        self._progress.say(step)

    def _end(self, entry: RunEntry, state: str, reason: str | None) -> None:
        ended = datetime.now(UTC).isoformat()
        self._bundle.update(entry.index, state=state, reason=reason, ended=ended)

    def _bring_home(self, deployment: Deployment, run: RunFolder) -> None:
        """Collects the files. Call it after the processes have ended: only then the files are
        complete."""
        if deployment.is_set_up:
            self._say("collecting")
            for problem in collect(deployment, run):
                self._progress.note(f"not collected: {problem}")
