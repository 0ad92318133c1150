"""A campaign from file to bundle: deploy, run, collect, and derive what it means.

Used by `testbed run`. A run that is interrupted or fails leaves a bundle too, marked as such:
nothing that was measured is thrown away, and nothing incomplete looks finished.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from inventory.model import Lab
from testbed.bundle import Bundle
from testbed.campaign.kinds import equip
from testbed.campaign.run import RunLog, Runner
from testbed.campaign.schedule import Schedule
from testbed.campaign.watch import Watch
from testbed.clock import ClockWatch
from testbed.errors import ConfigurationError
from testbed.hosts.local import LocalHost
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.lease import Lease
from testbed.provision.collect import collect
from testbed.provision.deployment import Deployment
from testbed.provision.ready import interpreters
from testbed.provision.workspace import workspace
from testbed.screen import Screen

__all__ = ["Inputs", "run_campaign"]


@dataclass(frozen=True)
class Inputs:
    """What a run is made from: the files as they were read, and what they came to."""

    lab: Lab
    schedule: Schedule
    campaign_yaml: bytes
    inventory_yaml: bytes


def run_campaign(inputs: Inputs, out: Path, screen: Screen) -> Bundle:
    """Run a schedule of one run; the bundle holds everything raw when this returns or raises."""
    schedule, lab = inputs.schedule, inputs.lab
    if len(schedule.runs) != 1:
        raise ConfigurationError(
            f"{schedule.campaign}: {len(schedule.runs)} runs; one run at a time is carried out so "
            "far: set trials: {count: 1, order: faults}, and give each a --seed of its own"
        )
    started = datetime.now(UTC)
    bundle = Bundle.create(out, schedule.campaign, schedule.schedule_hash, started)
    bundle.write("inputs/campaign.yaml", inputs.campaign_yaml)
    bundle.write("inputs/inventory.yaml", inputs.inventory_yaml)
    bundle.write("inputs/schedule.json", schedule.canonical_json())
    bundle.write_manifest(
        stage=lab.stage_name(),
        seed=schedule.seed,
        schedule_hash=schedule.schedule_hash,
        hosts=list(lab.active),
        exclusions={excluded.name: excluded.reason for excluded in lab.excluded()},
        started=started,
    )
    with ExitStack() as stack:
        hosts, python = stack.enter_context(opened_hosts(lab))
        lease = stack.enter_context(Lease({n: hosts[n] for n in limited(lab, None)}))
        deployment = Deployment(lab, hosts, python, screen.say)
        stack.callback(_bring_home, deployment, bundle, screen)
        stack.enter_context(deployment)
        deployment.set_up()
        bundle.write("inputs/genesis.json", deployment.material.genesis.encode())
        equip({event.kind for trial in schedule.trials for event in trial.events}, deployment)
        deployment.start()
        clock = _clock_watch(hosts, python, bundle)
        stack.callback(clock.stop)
        clock.start()
        watch = Watch(deployment)
        lease.on_lost = watch.trouble.append
        stack.callback(watch.close)
        watch.start()
        runner = Runner(schedule, schedule.trials[0], deployment, watch, bundle)
        screen.show(watch, runner, schedule)
        runner.run()
    return bundle


def _clock_watch(
    hosts: Mapping[str, Host], python: Mapping[str, str], bundle: Bundle
) -> ClockWatch:
    log = RunLog(bundle.raw)
    return ClockWatch(hosts, python, lambda **fields: log.write("clock", **fields))


def _bring_home(deployment: Deployment, bundle: Bundle, screen: Screen) -> None:
    """After the processes have ended: their files are whole then."""
    if deployment.is_set_up:
        screen.say("collecting")
        for problem in collect(deployment, bundle):
            screen.say(f"not collected: {problem}")


@contextmanager
def opened_hosts(lab: Lab) -> Iterator[tuple[Mapping[str, Host], Mapping[str, str]]]:
    """(hosts, interpreter on each) by name. Local hosts live in a private directory of the run.

    Raises ConfigurationError if a host lacks our code as it stands here.
    """
    with ExitStack() as stack:
        remote = stack.enter_context(ssh_hosts(lab, limited(lab, None)))
        python = interpreters(remote)
        hosts: dict[str, Host] = {}
        if len(remote) < len(lab.active):
            root = stack.enter_context(workspace())
        for name in lab.active:
            if name in remote:
                hosts[name] = remote[name]
            else:
                hosts[name] = stack.enter_context(LocalHost(root / name, name=name))
                python[name] = sys.executable
        yield hosts, python
