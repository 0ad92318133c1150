"""Checks whether hosts are ready for a run: provisioned, with exactly our version of the code."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.care.dead_man import wake
from testbed.errors import ConfigurationError
from testbed.fleet import at_once
from testbed.hosts.port import Host
from testbed.provision.install import PYTHON
from testbed.provision.probe import Facts, probe
from testbed.wheelhouse import Platform, Wheelhouse

__all__ = ["interpreters", "staleness"]


def staleness(facts: Facts, wheelhouse: Wheelhouse) -> str:
    """Why a host cannot run our code; empty if it can."""
    if facts.damaged:
        return "files of its environment are missing or changed"
    if not facts.stamp.code:
        return "not provisioned"
    target = Platform(facts.machine, facts.python, facts.glibc, facts.magic)
    if facts.stamp.code != wheelhouse.code(target).key:
        return "it has another version of our code"
    return ""


def interpreters(hosts: Mapping[str, Host]) -> dict[str, str]:
    """The interpreter with our code on each host. Also wakes undos that wait since a restart of
    their host.

    Raises LabFault for hosts that do not answer, ConfigurationError for hosts that are not ready.
    """
    wheelhouse = Wheelhouse()

    def look(host: Host) -> str:
        wake(host)
        return staleness(probe(host), wheelhouse)

    found = zip(hosts, at_once(look, hosts.values()), strict=True)
    stale = {name: why for name, why in found if why}
    if stale:
        lines = [f"{name}: {why}" for name, why in stale.items()]
        raise ConfigurationError(
            "\n".join(lines) + f"\n  fix: testbed provision -i FILE --limit {','.join(stale)}"
        )
    return {name: str(host.root / PYTHON) for name, host in hosts.items()}
