"""The bundle of a campaign while it is being run: what is planned, begun, finished, to be redone.

`new` writes down everything that will happen before anything does; a run's entry in the manifest
is changed before and after each step, so that whatever ends this program, the bundle says how far
it had come. Running is in `session`, whether a bundle may go on in `resume`.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from inventory.model import Lab
from testbed.bundle import RUN_DIR, Bundle
from testbed.campaign.schedule import Schedule
from testbed.manifest import (
    Manifest,
    Place,
    RunEntry,
    code_sha256,
    git_state,
    packages,
    python_version,
)
from testbed.redact import redacted_argv, redacted_inventory

__all__ = ["Inputs", "begin", "new_bundle"]


@dataclass(frozen=True)
class Inputs:
    """What a campaign is run from: the files as they were read, and what they came to.

    `campaign_file` and `inventory_file` as they were typed; None: those that ship with the testbed.
    """

    lab: Lab
    schedule: Schedule
    campaign_yaml: bytes
    campaign_file: str | None = None
    inventory_file: str | None = None


def new_bundle(inputs: Inputs, out: Path) -> Bundle:
    """A bundle with every run of the schedule planned. Raises ConfigurationError."""
    schedule, lab = inputs.schedule, inputs.lab
    now = datetime.now(UTC)
    inventory = redacted_inventory(lab)
    bundle = Bundle.create(out, schedule.campaign, schedule.schedule_hash, now)
    bundle.write("inputs/campaign.yaml", inputs.campaign_yaml)
    bundle.write("inputs/inventory.yaml", inventory)
    bundle.write("inputs/schedule.json", schedule.canonical_json())
    several = len(schedule.runs) > 1
    bundle.write_manifest(
        Manifest(
            run=bundle.name,
            campaign=schedule.campaign,
            argv=redacted_argv(["testbed", *sys.argv[1:]]),
            campaign_file=_typed(inputs.campaign_file),
            inventory_file=_typed(inputs.inventory_file),
            seed=schedule.seed,
            schedule_sha256=schedule.schedule_hash,
            campaign_sha256=hashlib.sha256(inputs.campaign_yaml).hexdigest(),
            inventory_sha256=hashlib.sha256(inventory).hexdigest(),
            code_sha256=code_sha256(),
            stage=lab.stage_name(),
            started=now.isoformat(),
            hosts=tuple(lab.active),
            exclusions={excluded.name: excluded.reason for excluded in lab.excluded()},
            git=git_state(),
            python=python_version(),
            packages=packages(),
            runs=tuple(
                RunEntry(
                    index=run.index,
                    trial=run.trial,
                    arm=run.arm,
                    path=f"{RUN_DIR}/{run.index:04}-{run.arm}" if several else ".",
                )
                for run in schedule.runs
            ),
        )
    )
    return bundle


def begin(bundle: Bundle, entry: RunEntry, schedule: Schedule) -> Bundle:
    """Make a run's directory with all that it is run from; what an earlier try left was moved.

    It is there before the manifest says "running": so a try that was killed always left something
    to set aside, and is counted.
    """
    run = bundle.of_run(entry)
    started = datetime.now(UTC).isoformat()
    run.prepare()
    if run is not bundle:
        part = schedule.part(entry.index)
        run.write("inputs/schedule.json", part.canonical_json())
        for name in ("campaign.yaml", "inventory.yaml"):
            run.write(f"inputs/{name}", (bundle.path / "inputs" / name).read_bytes())
        whole = bundle.manifest
        run.write_manifest(
            msgspec.structs.replace(
                whole,
                run=run.name,
                schedule_sha256=part.schedule_hash,
                started=started,
                part_of=Place(campaign=whole.run, index=entry.index),
                runs=(),
            )
        )
    bundle.update(entry.index, state="running", reason=None, started=started, ended=None)
    return run


def _typed(path: str | None) -> str | None:
    return None if path is None else redacted_argv([path])[0]
