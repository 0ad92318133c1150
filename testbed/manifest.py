"""manifest.json of a bundle: the planned runs, their inputs, and the state of each run.

`bundle` says where files are. `campaign.resume` decides whether a campaign may be continued.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Final, Literal

import msgspec

__all__ = [
    "SCHEMA",
    "Arm",
    "Attempt",
    "Manifest",
    "RunEntry",
    "RunState",
    "Stage",
    "code_sha256",
    "git_state",
    "packages",
]

SCHEMA: Final = "testbed.manifest/2"
Arm = Literal["baseline", "faults"]
RunState = Literal["planned", "running", "done", "failed", "invalid"]
Stage = Literal["loopback", "emulated", "lab", "simulation"]

# Code that only reads results. It may change between the runs of a campaign.
_READS_RESULTS = (
    "testbed/checks",
    "testbed/report",
    "testbed/bench",
    "testbed/simulate",
    "testbed/model",
)
_TOP = Path(__file__).resolve().parent.parent
_NAME_AND_VERSION = re.compile(r"^(Name|Version): (.*)$", re.MULTILINE)
_CODE = ("chain", "gateway", "inventory", "nodes", "testbed")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that did not become a run. Its files were moved to `path`; no figure uses them."""

    path: str
    reason: str
    started: str | None = None


class RunEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the schedule.

    planned: not begun. running: begun; if nobody holds the bundle's lock, the program was killed.
    failed: the lab failed, or somebody interrupted the run. These three are not complete. done: all
    phases completed, all files collected. invalid: complete, but it cannot be judged.
    """

    index: int
    trial: int
    arm: Arm
    state: RunState = "planned"
    reason: str | None = None
    started: str | None = None
    ended: str | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def path(self) -> str:
        """The place of its files, relative to the bundle."""
        return f"run/{self.index:04}-{self.arm}"

    @property
    def complete(self) -> bool:
        return self.state in ("done", "invalid")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """manifest.json. `campaign_file` and `inventory_file` as they were typed; None: packaged.

    The hashes are those of inputs/schedule.json, campaign.yaml and (redacted) inventory.yaml, and
    of the code that runs. A stored schedule that was run again has no campaign.yaml (None). With
    `mark` its maker recognises the bundle (`origin`).
    """

    schema: Literal["testbed.manifest/2"] = SCHEMA
    run: str
    campaign: str = ""
    argv: tuple[str, ...]
    campaign_file: str | None = None
    inventory_file: str | None = None
    seed: int
    schedule_sha256: str
    campaign_sha256: str | None = None
    inventory_sha256: str = ""
    code_sha256: str = ""
    stage: Stage
    started: str
    hosts: tuple[str, ...] = ()
    exclusions: dict[str, str] = {}
    git: dict[str, str | bool | None] = {}
    python: str = ""
    packages: dict[str, str] = {}
    mark: str = ""
    runs: tuple[RunEntry, ...] = ()

    @property
    def inputs(self) -> dict[str, str]:
        """The files in inputs/ that it was run from, each with its SHA-256."""
        of_all = {
            "inputs/schedule.json": self.schedule_sha256,
            "inputs/campaign.yaml": self.campaign_sha256,
            "inputs/inventory.yaml": self.inventory_sha256,
        }
        return {name: digest for name, digest in of_all.items() if digest}


@cache
def code_sha256() -> str:
    """Digest of every source file that takes part in a run, here and on hosts."""
    total = hashlib.sha256()
    for path in _sources():
        total.update(f"{path.relative_to(_TOP)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _sources() -> Iterator[Path]:
    for folder in _CODE:
        for path in sorted((_TOP / folder).rglob("*.py")):
            if not str(path.relative_to(_TOP)).startswith(_READS_RESULTS):
                yield path


@cache
def packages() -> dict[str, str]:
    """Name and version of every installed distribution; names in lower case, sorted."""
    # `dist.version` would parse the whole description, which is slow for a hundred of them.
    heads = ((dist.read_text("METADATA") or "").partition("\n\n")[0] for dist in distributions())
    found = [dict(_NAME_AND_VERSION.findall(head)) for head in heads]
    return dict(sorted((each["Name"].lower(), each["Version"]) for each in found if each))


@cache
def git_state() -> dict[str, str | bool | None]:
    """Commit and whether the tree differs from it; nulls outside a checkout."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *args],  # noqa: S607 - whichever git the user has
                cwd=_TOP,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
