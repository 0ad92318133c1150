"""`testbed plan`: print the exact schedule of a campaign on a lab. Touches nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.schedule import Schedule, ScheduledEvent, Trial
from testbed.campaign.warnings import warnings
from testbed.commands.options import (
    InventoryOption,
    JsonOption,
    SeedOption,
    SystemOption,
    columns,
    print_found,
    write_out,
)
from testbed.systems.known import find_system

__all__ = ["plan"]


def plan(
    campaign: Annotated[str, typer.Argument(help="Name of a shipped campaign, or a file.")],
    *,
    inventory: InventoryOption = None,
    seed: SeedOption = None,
    system: SystemOption = "chain",
    as_json: JsonOption = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the schedule here, for a replay.")
    ] = None,
) -> None:
    """Print the exact schedule of a campaign, and change nothing.

    The same campaign, lab and seed give the same hash. `--save` writes the schedule for a replay:
    `testbed run FILE` runs it exactly as it is.
    """
    lab = load_lab(inventory)
    schedule = expand(load_campaign(find_campaign(campaign)), lab, seed, find_system(system))
    for warning in warnings(schedule):
        typer.echo(f"warning: {warning}", err=True)
    if save is not None:
        write_out(save, schedule.canonical_json())
    found = {
        "schedule_hash": schedule.schedule_hash,
        "schedule": json.loads(schedule.canonical_json()),
        "excluded": [{"name": x.name, "reason": x.reason} for x in lab.excluded()],
    }
    left_out = [f"left out: {x.name}: {x.reason}" for x in lab.excluded()]
    print_found(found, "\n".join([*left_out, _in_words(schedule)]), as_json=as_json)


def _in_words(schedule: Schedule) -> str:
    guard = "none" if schedule.max_faulty is None else f"at most {schedule.max_faulty} faulty"
    head = [
        ("campaign", schedule.campaign),
        ("system", schedule.system),
        ("lab", f"{schedule.lab}, {len(schedule.replicas)} replicas, f = {schedule.f}"),
        ("seed", schedule.seed),
        ("hash", schedule.schedule_hash),
        ("guard", guard),
        ("phases", ", ".join(f"{p.name} {_s(p.start_ms)}-{_s(p.end_ms)}" for p in schedule.phases)),
        ("runs", _runs(schedule)),
    ]
    return "\n\n".join([columns(head), *(_trial(trial) for trial in schedule.trials)])


def _runs(schedule: Schedule) -> str:
    """Says how many runs there are, how long they last, and their order. The time for setting up a
    run is not known beforehand."""
    count = len(schedule.runs)
    each = f"{count} of {_s(schedule.run_ms)} s"
    if count > 1:
        rest_ms = schedule.cooldown_ms * (count - 1)
        cooldown = f" and {_s(schedule.cooldown_ms)} s between them" if schedule.cooldown_ms else ""
        each += f"{cooldown}, {_s(schedule.run_ms * count + rest_ms)} s and set-up in all"
    return f"{each}; order: {_order(schedule)} (b: baseline, f: with faults)"


def _order(schedule: Schedule) -> str:
    letters = "".join(run.arm[0] for run in schedule.runs[:40])
    return letters + ("..." if len(schedule.runs) > len(letters) else "")


def _trial(trial: Trial) -> str:
    events: list[tuple[str, ...]] = [
        ("  TIME s", "FOR s", "EVENT", "KIND", "TARGETS", "PARAMETERS")
    ]
    events += [_event(event) for event in trial.events]
    devices = [("  DEVICE", "HOST", "ENROL s", "SENDS")]
    for device in trial.devices:
        enrol = "-" if device.enrol_at_ms is None else _s(device.enrol_at_ms)
        sends = ", ".join(f"{phase} {len(at)}" for phase, at in device.sends_ms.items())
        devices.append((f"  {device.name}", device.host, enrol, sends or "-"))
    title = f"trial {trial.index}, seed {trial.seed}"
    return "\n".join([title, columns(events), "", columns(devices)])


def _event(event: ScheduledEvent) -> tuple[str, ...]:
    targets = "; ".join(f"{key} {', '.join(names)}" for key, names in event.targets.items())
    params = json.dumps(event.params) if event.params else "-"
    return (
        f"  {_s(event.at_ms)}",
        _s(event.for_ms) if event.for_ms else "-",
        event.id,
        event.kind,
        targets or "-",
        params,
    )


def _s(ms: int) -> str:
    return f"{ms / 1000:g}"
