"""Between two runs, hosts must be as clean as before the first run. Otherwise later figures mean
nothing.

`testbed.care.restore` defines what is clean. On this machine only the run's own directories are
checked, because its rules and processes may belong to others.
"""

from __future__ import annotations

from collections.abc import Mapping

from testbed.care.dead_man import armed
from testbed.care.restore import leftover, restore
from testbed.errors import LabFault, RestoreIncompleteError
from testbed.fleet import at_once
from testbed.hosts.local import LocalHost
from testbed.hosts.port import NO_ROOT_FIX, Host

__all__ = ["assert_clean", "clean_up", "unclean"]

_RESTORE = "testbed restore -i FILE"


def assert_clean(hosts: Mapping[str, Host]) -> None:
    """Raises LabFault that names each host and what was left on it."""
    if found := unclean(hosts):
        raise LabFault(found)


def unclean(hosts: Mapping[str, Host]) -> str:
    """Our remains on each host, and the fix; "" if there are none."""

    def look(name: str) -> tuple[str, str]:
        host, fix = hosts[name], _RESTORE
        if isinstance(host, LocalHost):
            waiting = [f"armed {one.name}" for one in armed(host)]
            left = "; ".join([*waiting, *(f"unit {unit}" for unit in host.units())])
        else:
            found = leftover(host)
            left = found.brief if found.lines else ""
            fix = NO_ROOT_FIX if found.needs_root else _RESTORE
        return (f"{name} is not clean: {left}", f"  fix: {fix}") if left else ("", "")

    seen = [both for both in at_once(look, hosts) if all(both)]
    return "\n".join([*(line for line, _ in seen), *dict.fromkeys(fix for _, fix in seen)])


def clean_up(hosts: Mapping[str, Host]) -> None:
    """Restore what a run of ours that died left behind. Raises RestoreIncompleteError."""

    def fix(name: str) -> str:
        try:
            restore(hosts[name], lambda _: None)
        except LabFault as fault:
            return str(fault)
        return ""

    problems = [line for line in at_once(fix, hosts) if line]
    if problems:
        raise RestoreIncompleteError("\n".join([*problems, f"  fix: {_RESTORE}"]))
