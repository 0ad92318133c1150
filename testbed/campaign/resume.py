"""Decides whether a bundle's campaign may go on here and now: only if nothing has changed.

The stored schedule is continued, not drawn again. The campaign file, the inventory (the part of it
that the bundle has), our code and all installed packages are compared. No option overrules this:
runs of two configurations in one bundle would be averaged as if they were one.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inventory.load import InvalidFile, load_lab
from inventory.model import Lab
from testbed.bundle import Bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.replay import runnable
from testbed.campaign.schedule import Schedule
from testbed.errors import ConfigurationError
from testbed.manifest import Manifest, RunEntry, code_sha256, git_state, packages
from testbed.origin import is_ours
from testbed.printed import shell_line
from testbed.redact import redacted_inventory
from testbed.systems.known import find_system

__all__ = ["Resumable", "redo", "resumable", "unfinished"]

PACKAGES_NAMED_MAX = 5


@dataclass(frozen=True)
class Resumable:
    """A campaign that may be continued."""

    lab: Lab
    schedule: Schedule
    inventory: Path | None


def resumable(bundle: Bundle, inventory: Path | None) -> Resumable:
    """Check that nothing differs. `inventory` replaces the file that the manifest names.

    Raises ConfigurationError that names all differences, and what to do instead.
    """
    manifest = bundle.manifest
    schedule = runnable(Schedule.from_json(bundle.read("inputs/schedule.json")))
    path = _inventory(manifest, inventory)
    lab = load_lab(path)
    found = list(_differences(bundle, manifest, schedule, lab))
    if found:
        again = shell_line(manifest.argv)
        raise ConfigurationError(
            "\n".join(
                [
                    f"{bundle.path} cannot be continued, because something has changed:",
                    *(f"  {each}" for each in found),
                    f"  fix: undo these changes, or begin a new bundle: {again}",
                ]
            )
        )
    return Resumable(lab, schedule, path)


def unfinished(bundle: Bundle, *, also_invalid: bool = False) -> list[RunEntry]:
    """The runs that are not complete, in order; with `also_invalid` also those that are invalid."""
    return [
        each
        for each in bundle.manifest.runs
        if not each.complete or (also_invalid and each.state == "invalid")
    ]


def redo(bundle: Bundle, *, also_invalid: bool = False) -> list[RunEntry]:
    """The runs to make, in order. Moves aside what earlier attempts left."""
    again = unfinished(bundle, also_invalid=also_invalid)
    for entry in again:
        reason = entry.reason or "cut off: the program that ran it ended"
        bundle.set_aside(entry, reason)
    indices = {each.index for each in again}
    return [each for each in bundle.manifest.runs if each.index in indices]


def _inventory(manifest: Manifest, stated: Path | None) -> Path | None:
    if stated is not None or manifest.inventory_file is None:
        return stated
    path = Path(manifest.inventory_file).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"inventory {path} is not there any more: name it with -i FILE")
    if not is_ours(manifest):
        raise ConfigurationError(
            f"this bundle was not made here, or {path} has changed since; an inventory holds "
            "commands that are run: read it (or write your own), then name it with the option -i"
        )
    return path


def _differences(bundle: Bundle, manifest: Manifest, schedule: Schedule, lab: Lab) -> Iterator[str]:
    """One line each."""
    for name in bundle.altered(manifest):
        yield f"{name} was changed in the bundle"
    yield from _campaign_differences(manifest, schedule, lab)
    if hashlib.sha256(redacted_inventory(lab)).hexdigest() != manifest.inventory_sha256:
        yield "inventory: hosts, roles, boards or options differ from inputs/inventory.yaml"
    if code_sha256() != manifest.code_sha256:
        yield f"code: then {_commit(manifest.git)}, now {_commit(git_state())}"
    if (python := platform.python_version()) != manifest.python:
        yield f"Python: then {manifest.python}, now {python}"
    yield from _package_differences(manifest.packages, packages())


def _campaign_differences(manifest: Manifest, schedule: Schedule, lab: Lab) -> Iterator[str]:
    """The file must still give the same schedule. If it is gone, the bundle's own copy is
    enough."""
    if manifest.campaign_sha256 is None:
        return  # a stored schedule: there is nothing to draw
    name = manifest.campaign_file or manifest.campaign
    try:
        path = find_campaign(str(Path(name).expanduser()))
    except ConfigurationError:
        return
    try:
        system = find_system(schedule.system)
        now = expand(load_campaign(path), lab, schedule.seed, system)
    except (ConfigurationError, InvalidFile) as error:
        yield f"campaign: {path} cannot be used any more: {error}"
        return
    first = schedule.runs[0].index
    if len(schedule.runs) == 1 and first < len(now.runs) > 1:  # `testbed run --only`
        now = now.part(first)
    if now.schedule_hash != manifest.schedule_sha256:
        yield (
            f"campaign: {path} gives schedule {now.schedule_hash[:12]} on this inventory, "
            f"the bundle has {manifest.schedule_sha256[:12]}"
        )


def _package_differences(then: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    for name in names[:PACKAGES_NAMED_MAX]:
        yield f"package {name}: then {then.get(name, 'none')}, now {now.get(name, 'none')}"
    if len(names) > PACKAGES_NAMED_MAX:
        yield f"more packages: {len(names) - PACKAGES_NAMED_MAX}"


def _commit(git: dict[str, str | bool | None]) -> str:
    commit = str(git.get("commit") or "an unknown commit")[:12]
    return f"{commit} with local changes" if git.get("dirty") else commit
