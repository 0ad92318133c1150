"""Lists the active faults of a run, and ends one early, from another terminal.

The run writes what it does to raw/faults.jsonl. To end a fault, its id is added to the file `abort`
in the run's folder. The runner reads that file while a fault lasts (`run`), heals the fault and
continues. The run then counts as invalid (`testbed.checks.faults`), because it differs from the
plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.bundle import Bundle, RunFolder
from testbed.errors import ConfigurationError

__all__ = ["ActiveFault", "abort_fault", "aborts", "active_faults", "run_under_way"]

_FILE = "abort"


@dataclass(frozen=True, slots=True)
class ActiveFault:
    """A fault that was applied and is not healed yet. `since_ns` is wall time."""

    event: str
    fault: str
    kind: str
    targets: dict[str, list[str]]
    since_ns: int
    for_ms: int


def run_under_way(bundle: Bundle) -> RunFolder:
    """The run that is being made now. Raises ConfigurationError; LabFault if it was cut off."""
    bundle.require_not_cut_off()
    for run in bundle.runs:
        if run.entry.state == "running":
            return run
    raise ConfigurationError(f"{bundle.path}: no run is under way")


def active_faults(run: RunFolder) -> list[ActiveFault]:
    """In the order in which they were applied."""
    active: dict[str, ActiveFault] = {}
    for_ms: dict[str, int] = {}
    for line in run.lines("raw/faults.jsonl"):
        event = line["event"]
        match line["step"]:
            case "planned":
                for_ms[event] = line["for_ms"]
            case "applied":
                active[event] = ActiveFault(
                    event, line["id"], line["kind"], line["targets"], line["t"], for_ms[event]
                )
            case "healed":
                active.pop(event, None)
    return list(active.values())


def abort_fault(run: RunFolder, name: str, *, check: bool = False) -> list[ActiveFault]:
    """End these active faults: the event of this id, or all events of the fault. With `check` they
    are only listed. Raises ConfigurationError if none has this id.
    """
    active = active_faults(run)
    ending = [fault for fault in active if name in (fault.event, fault.fault)]
    if not ending:
        have = ", ".join(fault.event for fault in active) or "none"
        raise ConfigurationError(f"{name} is no active fault of {run.name}; there are: {have}")
    if not check:
        with (run.path / _FILE).open("a") as file:
            file.writelines(f"{fault.event}\n" for fault in ending)
    return ending


def aborts(run: Path) -> frozenset[str]:
    """Ids of the events that somebody wants to end."""
    try:
        return frozenset((run / _FILE).read_text().split())
    except FileNotFoundError:
        return frozenset()
