"""Brings hosts back to a clean state, after any trouble; needs no run and no plan.

Clean means: no undo of ours is armed, no unit of ours runs, no process runs from our environment,
and no link rule, filter, file or folder of a fault (`fault-*`) exists. Each step may be repeated.
Afterwards the host is checked again, and what is left is named. Keys, the environment and the files
of the last run stay.

Only things with our exact mark are touched. If something cannot be looked at (filters need root),
that counts as something left: such a host is never called clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from testbed.care.dead_man import Armed, armed, fire
from testbed.fleet import Step, at_once
from testbed.hosts.port import NO_ROOT_FIX, Host, HostFault
from testbed.programs import shell

__all__ = [
    "QDISC_HANDLE",
    "TABLE_COMMENT",
    "Leftover",
    "leftover",
    "remove_all",
    "restore",
    "to_remove",
]

TABLE_COMMENT: Final = "m2m-testbed"
"""Every filter table of ours has exactly this comment, whatever its name."""

QDISC_HANDLE: Final = "7bed:"
"""Every root queueing discipline of ours has exactly this handle."""

_PROCESS = "process "
_UNSEEN = "cannot look at "


@dataclass(frozen=True, slots=True)
class Leftover:
    """What of ours is left on a host. `others` are rules and processes, in words."""

    armed: Sequence[Armed] = ()
    units: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def brief(self) -> str:
        """One line, for a table. If units run, processes are left out: most belong to the units."""
        names = f"units {' '.join(self.units)}" if self.units else ""
        waiting = [f"armed {one.name} (in {one.left_s} s)" for one in self.armed]
        others = [o for o in self.others if not (self.units and o.startswith(_PROCESS))]
        return "; ".join(filter(None, [names, *waiting, *others])) or "nothing"

    @property
    def lines(self) -> list[str]:
        waiting = [f"armed undo {one.name}, due in {one.left_s} s" for one in self.armed]
        return [*waiting, *(f"unit {name}" for name in self.units), *self.others]

    @property
    def needs_root(self) -> bool:
        """Something cannot be looked at, because the login may not become root."""
        return any(other.startswith(_UNSEEN) and "sudo" in other for other in self.others)


def leftover(host: Host) -> Leftover:
    """Look; change nothing."""
    return Leftover(armed(host), host.units(), _others(host, "show"))


def to_remove(host: Host) -> tuple[str, ...]:
    """What `restore` would remove. Raises LabFault if something cannot be looked at."""
    found = leftover(host)
    if any(other.startswith(_UNSEEN) for other in found.others):
        raise _not_clean(host, found)
    return tuple(found.lines)


def restore(host: Host, step: Step) -> tuple[str, ...]:
    """Clean a host and verify it. Returns what was removed.

    Raises LabFault that names what is left.
    """
    step("looking")
    found = leftover(host)
    problems: list[str] = []
    for one in found.armed:
        step(f"undoing {one.name}")
        try:
            fire(host, one.name)
        except HostFault as fault:
            problems.append(str(fault))
    # Units are listed again, because an undo may have started some that its fault had stopped.
    units = host.units()
    if units:
        step(f"stopping {len(units)} units")
        problems += filter(None, at_once(lambda name: _stop(host, name), units))
    step("removing rules and processes")
    _others(host, "remove")
    step("verifying")
    left = leftover(host)
    if left.lines or problems:
        raise _not_clean(host, left, problems)
    return tuple(found.lines)


def _not_clean(host: Host, left: Leftover, problems: Sequence[str] = ()) -> HostFault:
    fix = NO_ROOT_FIX if left.needs_root else ""
    return HostFault(host.name, "restore", "; ".join([*left.lines, *problems]), fix)


def _stop(host: Host, name: str) -> str:
    """Returns what went wrong, or "". If a unit does not end, the other units and the rules are
    still removed."""
    try:
        host.stop(name)
    except HostFault as fault:
        return str(fault)
    return ""


def remove_all(host: Host) -> None:
    """Remove our directory from a host that is restored: environment, keys, files, lease."""
    root = str(host.root)
    assert root.count("/") >= 2, f"refusing to remove {root}"
    # Commands usually run in the directory that is removed here, so not this one.
    host.run(["sh", "-c", 'cd / && rm -rf -- "$1"', "remove", root])


def _others(host: Host, verb: Literal["show", "remove"]) -> tuple[str, ...]:
    argv = shell("care/standing.sh", verb, str(host.root), TABLE_COMMENT, QDISC_HANDLE)
    return tuple(host.run(argv).stdout.splitlines())
