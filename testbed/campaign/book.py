"""The bundle of a campaign that is being run: which runs are planned, and which have begun.

`new_bundle` writes down the whole plan before anything runs. A run's entry in the manifest is
changed before and after each step. So the bundle shows how far the program had come, even after
kill -9. Elsewhere: running (`session`), and whether a bundle may be continued (`resume`).
"""

from __future__ import annotations

import hashlib
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from inventory.model import Lab
from testbed.bundle import Bundle, RunFolder
from testbed.campaign.schedule import Schedule
from testbed.manifest import Manifest, RunEntry, code_sha256, git_state, packages
from testbed.origin import mark
from testbed.redact import redacted_argv, redacted_inventory

__all__ = ["Inputs", "begin", "new_bundle"]


@dataclass(frozen=True)
class Inputs:
    """What a campaign is run from: the files as they were read, and the lab and schedule made from
    them. Without `campaign_yaml` a stored schedule is run. `campaign_file` and `inventory_file` are
    paths as they were typed; None means the files that ship with the testbed.
    """

    lab: Lab
    schedule: Schedule
    campaign_yaml: bytes | None
    campaign_file: str | None = None
    inventory_file: str | None = None


def new_bundle(inputs: Inputs, out: Path) -> Bundle:
    """A bundle with every run of the schedule planned. Raises ConfigurationError."""
    schedule, lab = inputs.schedule, inputs.lab
    now = datetime.now(UTC)
    inventory = redacted_inventory(lab)
    bundle = Bundle.create(out, schedule.campaign, schedule.schedule_hash, now)
    if inputs.campaign_yaml is not None:
        bundle.write("inputs/campaign.yaml", inputs.campaign_yaml)
    bundle.write("inputs/inventory.yaml", inventory)
    bundle.write("inputs/schedule.json", schedule.canonical_json())
    manifest = Manifest(
        run=bundle.name,
        campaign=schedule.campaign,
        argv=redacted_argv(["testbed", *sys.argv[1:]]),
        campaign_file=_typed(inputs.campaign_file),
        inventory_file=_typed(inputs.inventory_file),
        seed=schedule.seed,
        schedule_sha256=schedule.schedule_hash,
        campaign_sha256=(
            None
            if inputs.campaign_yaml is None
            else hashlib.sha256(inputs.campaign_yaml).hexdigest()
        ),
        inventory_sha256=hashlib.sha256(inventory).hexdigest(),
        code_sha256=code_sha256(),
        stage=lab.stage_name(),
        started=now.isoformat(),
        hosts=tuple(lab.active),
        exclusions={excluded.name: excluded.reason for excluded in lab.excluded()},
        git=git_state(),
        python=platform.python_version(),
        packages=packages(),
        runs=tuple(
            RunEntry(index=run.index, trial=run.trial, arm=run.arm) for run in schedule.runs
        ),
    )
    bundle.write_manifest(msgspec.structs.replace(manifest, mark=mark(manifest)))
    return bundle


def begin(bundle: Bundle, entry: RunEntry) -> RunFolder:
    """Make a run's directory. What an earlier attempt left has been moved away already. The
    directory exists before the manifest says "running". So an attempt that was killed has always
    left a directory: it is moved aside, and counted.
    """
    run = RunFolder(bundle, entry)
    run.prepare()
    started = datetime.now(UTC).isoformat()
    bundle.update(entry.index, state="running", reason=None, started=started, ended=None)
    return run


def _typed(path: str | None) -> str | None:
    return None if path is None else redacted_argv([path])[0]
