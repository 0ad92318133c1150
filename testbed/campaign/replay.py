"""Runs a stored schedule (`testbed plan --save`) again: nothing is drawn, but the lab is
checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from inventory.model import Lab
from testbed.campaign.kinds import kinds
from testbed.campaign.schedule import DeviceRole, Schedule
from testbed.campaign.selectors import is_symbolic
from testbed.errors import ConfigurationError
from testbed.provision.layout import layout
from testbed.systems.known import find_system

__all__ = ["is_schedule", "runnable", "stored_schedule"]

NAMED_MAX = 5


def is_schedule(name: str) -> bool:
    """Whether the user named a stored schedule instead of a campaign."""
    return Path(name).suffix == ".json" and Path(name).is_file()


def stored_schedule(path: Path, lab: Lab) -> Schedule:
    """Raises ConfigurationError that names what the lab lacks."""
    try:
        schedule = runnable(Schedule.from_json(path.read_bytes()))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if found := list(_differences(schedule, lab)):
        more = f" (and {len(found) - NAMED_MAX} more)" if len(found) > NAMED_MAX else ""
        raise ConfigurationError(
            f"{path} was made for lab {schedule.lab}, lab {lab.lab} differs: "
            f"{'; '.join(found[:NAMED_MAX])}{more}; name the right inventory with -i"
        )
    return schedule


def runnable(schedule: Schedule) -> Schedule:
    """The schedule. Raises ConfigurationError if it does something that this version does not
    know."""
    for event in (event for trial in schedule.trials for event in trial.events):
        known = kinds().get(event.kind)
        problem = "no such kind" if known is None else known.unfit(event.params)
        if problem is not None:
            raise ConfigurationError(f"{event.id} does {event.kind}: {problem}")
    return schedule


def _differences(schedule: Schedule, lab: Lab) -> Iterator[str]:
    replicas = tuple(find_system(schedule.system).lab(lab).replicas())
    if schedule.replicas != replicas:
        yield f"replicas {', '.join(replicas)} instead of {', '.join(schedule.replicas)}"
    nodes = layout(lab)
    known = {node.name for node in nodes} | {*lab.hosts}
    there = {(node.name, node.host) for node in nodes if node.role in get_args(DeviceRole)}
    for trial in schedule.trials[:1]:  # all trials have the same devices
        for device in trial.devices:
            if (device.name, device.host) not in there:
                yield f"no device {device.name} on host {device.host}"
    targets = {
        name
        for trial in schedule.trials
        for event in trial.events
        for names in event.targets.values()
        for name in names
    }
    yield from (f"no {name}" for name in sorted(targets - known) if not is_symbolic(name))
