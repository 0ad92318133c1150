"""Makes a result bundle of a running lab, for `report`, `ledger verify` and scripts.

A bundle describes a campaign. Here the campaign has one phase, from the start of the lab until it
was collected. Every device sends at its period, and nothing is injected.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from inventory.model import Lab
from testbed.bundle import Bundle
from testbed.campaign.book import Inputs, begin, new_bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign
from testbed.campaign.run import RunLog
from testbed.campaign.schedule import Schedule
from testbed.provision.collect import collect
from testbed.provision.deployment import Deployment
from testbed.standing.attached import attached
from testbed.standing.running_lab import RunningLab

__all__ = ["collect_running"]

PHASE = "standing"
_CAMPAIGN = """\
schema: testbed.campaign/1
campaign: standing
about: "A lab that was kept running, collected while it ran."
workload: {{kind: enrol+data, rate: {rate:.6f}/s, arrivals: uniform, timeout: 5s}}
phases: {{standing: {seconds}s}}
expect: {{safety: [agreement, validity, exactly-once, no-unauthorised-commit]}}
"""


def collect_running(
    running: RunningLab,
    out: Path,
    say: Callable[[str], None],
    deployment: Deployment | None = None,
) -> Bundle:
    """Writes a new bundle below `out`. The lab continues. The process that keeps the lab gives its
    `deployment`, because only that knows the spares that were started later. Raises LabFault,
    ConfigurationError."""
    elapsed_ms = max(1000, (time.time_ns() - running.start_ns) // 1_000_000)
    campaign, schedule = _schedule(running, running.lab, elapsed_ms)
    inputs = Inputs(running.lab, schedule, campaign, inventory_file=running.inventory)
    bundle = new_bundle(inputs, out)
    with bundle.locked():
        (entry,) = bundle.manifest.runs
        folder = begin(bundle, entry)
        folder.write("genesis.json", running.genesis.read_bytes())
        there = attached(running, say) if deployment is None else nullcontext(deployment)
        with there as kept:
            problems = collect(kept, folder)
        for problem in problems:
            say(f"not collected: {problem}")
        with RunLog(folder.raw) as log:
            (run,) = schedule.runs
            log.write(
                "run",
                what="start",
                start_ns=running.start_ns,
                run=run.index,
                trial=run.trial,
                arm=run.arm,
            )
            log.write("run", what="phase", phase=PHASE, at_ms=0)
            log.write("run", what="end")
        bundle.update(entry.index, state="done", ended=datetime.now(UTC).isoformat())
    return bundle


def _schedule(running: RunningLab, lab: Lab, elapsed_ms: int) -> tuple[bytes, Schedule]:
    """The work of the devices, as a campaign and its schedule."""
    senders = max(1, len(lab.mobiles()) + len(lab.boards_in_use()))
    text = _CAMPAIGN.format(
        rate=1000 * senders / running.period_ms, seconds=ceil(elapsed_ms / 1000)
    ).encode()
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "standing.yaml"
        path.write_bytes(text)
        schedule = expand(load_campaign(path), lab)
    (trial,) = schedule.trials
    devices = tuple(
        device.model_copy(
            update={
                "enrol_at_ms": None if device.role == "board" else 0,
                "draws": ()
                if device.role == "environment"
                else (running.sends(device.name, elapsed_ms),),
            }
        )
        for device in trial.devices
    )
    trials = (trial.model_copy(update={"devices": devices}),)
    return text, schedule.model_copy(update={"trials": trials})
