"""Makes a host ready: probes it, copies missing archives, builds its environment, tests it.

This module handles one host; `testbed.fleet` handles many. Everything is below the host's root:

    env/            the Python environment; env/stamp.json names its inputs
    <process>/keys  made there by `nodes.keygen`; a private key never leaves its host

An environment is built beside the old one and replaces it after its self-test, so a host is either
ready or as it was before. If the stamp of a host is the wanted one, the host is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from inventory.model import Lab
from testbed import programs
from testbed.boards.flash import is_plugged
from testbed.errors import LabFault
from testbed.hosts.port import (
    NO_SYSTEMD,
    NO_SYSTEMD_FIX,
    Host,
    HostFault,
    Unit,
    UnitState,
)
from testbed.programs import shell
from testbed.provision.layout import Node
from testbed.provision.probe import STAMP, Facts, Stamp, present, probe, tree
from testbed.wheelhouse import Archive, Platform, Wheelhouse

if TYPE_CHECKING:  # Paramiko is slow to import, and loopback needs only `PYTHON`.
    from testbed.hosts.ssh import SshHost

__all__ = ["DISK_FREE_MIN_MB", "PYTHON", "Installation", "plan_installation"]

PYTHON = "env/bin/python"
"""The interpreter with our code, below a host's root."""

DISK_FREE_MIN_MB = 200
"""Space for an environment (some 120 MB, for a moment its code twice) and a run's files."""

INSTALL_S_MAX = 300.0
HEALTH_S_MAX = 30.0
_HEALTH = "health"
_HEALTH_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Installation:
    """What one host lacks. `changes` is empty if it lacks nothing. `do` makes the changes and
    reports each step."""

    host: Host
    facts: Facts
    dependencies: tuple[Archive, ...]
    code: Archive
    keyless: tuple[str, ...]

    @property
    def wanted(self) -> Stamp:
        keys = ".".join(archive.key for archive in self.dependencies)
        return Stamp(keys, self.code.key, self.facts.interpreter, self.facts.stamp.tree)

    @property
    def rebuilds(self) -> bool:
        have = self.facts.stamp
        want = self.wanted
        return (have.dependencies, have.interpreter) != (want.dependencies, want.interpreter)

    @property
    def changes(self) -> tuple[str, ...]:
        """In words, for a dry run."""
        found = []
        if self.rebuilds:
            size_mb = sum(archive.path.stat().st_size for archive in self.dependencies) / 1e6
            found.append(f"environment for Python {self.facts.python} ({size_mb:.0f} MB)")
        elif self.facts.stamp != self.wanted:
            found.append("our code")
        if self.keyless:
            found.append(f"keys of {', '.join(self.keyless)}")
        return tuple(found)

    def do(self, step: Callable[[str], None]) -> None:
        """Raises LabFault; then the host is as it was before."""
        if self.rebuilds:
            self._check_disk()
            step("bringing wheels")
            paths = [self._bring(archive) for archive in (*self.dependencies, self.code)]
            step("building environment")
            self._build("build environment", "new", self.facts.interpreter, *paths)
        elif self.facts.stamp != self.wanted:
            step("bringing our code")
            self._build("renew code", "renew", self._bring(self.code))
        if self.facts.stamp != self.wanted:
            step("checking health")
            self._prove()
        if self.keyless:
            step("making keys")
            directories = [f"{name}/keys" for name in self.keyless]
            self.host.run([PYTHON, "-m", "nodes.keygen", "--dir", *directories])
        # The stamp comes last, so an interrupted installation never counts as ready.
        stamp = msgspec.structs.replace(self.wanted, tree=tree(self.host, PYTHON))
        self.host.put(msgspec.json.encode(stamp), STAMP)

    def _check_disk(self) -> None:
        if self.facts.disk_free_mb < DISK_FREE_MIN_MB:
            raise HostFault(
                self.host.name,
                "provision",
                f"{self.facts.disk_free_mb} MB free, {DISK_FREE_MIN_MB} MB needed",
                "remove files there, or use a larger card",
            )

    def _bring(self, archive: Archive) -> str:
        path = f"wheelhouse/{archive.name}"
        self.host.put(archive.path, path, timeout_s=INSTALL_S_MAX)
        return path

    def _build(self, action: str, *arguments: str) -> None:
        argv = shell("provision/build.sh", *arguments)
        result = self.host.run(argv, timeout_s=INSTALL_S_MAX, check=False)
        if result.exit_code != 0:
            raise HostFault(self.host.name, action, result.stderr.strip()[-1500:])

    def _prove(self) -> None:
        """Runs the self-test as a unit of this host's supervisor: it imports everything and writes
        files."""
        host = self.host
        host.run(["rm", "-rf", "health"])
        host.run(["mkdir", "health"])
        argv = programs.python(str(host.root / PYTHON), "provision/self_test.py")
        host.start(Unit(_HEALTH, tuple(argv), restart=False))
        try:
            deadline_s = time.monotonic() + HEALTH_S_MAX * host.slowness
            while not host.exists("health/ok", within_s=_HEALTH_LOOK_S):
                failed = host.status(_HEALTH).state is UnitState.FAILED
                if failed or time.monotonic() > deadline_s:
                    log = str(host.log_path(_HEALTH))
                    said = host.run(["tail", "-c", "1500", log], check=False).stdout.strip()
                    problem = f"the self-test does not pass as a service: {said or 'no output'}"
                    raise HostFault(host.name, "check health", problem)
        finally:
            host.stop(_HEALTH)
            host.run(["rm", "-rf", "health", str(host.log_path(_HEALTH))])


def plan_installation(
    lab: Lab, host: SshHost, nodes: Sequence[Node], wheelhouse: Wheelhouse
) -> Installation:
    """Finds what `host` lacks. Makes the archives for it here if they are not in the cache.

    Raises LabFault for a host that cannot be made ready.
    """
    if not host.facts.systemd:
        raise HostFault(host.name, "provision", NO_SYSTEMD, NO_SYSTEMD_FIX)
    facts = probe(host)
    if facts.noexec:
        problem = f"{host.root} is on a file system that is mounted noexec: no program starts there"
        fix = "mount it without noexec, or give the login a home elsewhere"
        raise HostFault(host.name, "provision", problem, fix)
    here = [board for board in lab.boards_in_use().values() if board.host == host.name]
    target = Platform(
        machine=facts.machine,
        python=facts.python,
        glibc=facts.glibc,
        magic=facts.magic,
        unix_boards=any(not is_plugged(board) for board in here),
        usb_boards=any(is_plugged(board) for board in here),
    )
    try:
        dependencies, code = wheelhouse.dependencies(target), wheelhouse.code(target)
    except LabFault as fault:
        raise HostFault(host.name, "resolve wheels", str(fault)) from fault
    owners = [
        n.name for n in nodes if n.host == host.name and n.role in ("replica", "spare", "gateway")
    ]
    keyless: tuple[str, ...] = ()
    if owners:
        keys = {name: f"{name}/keys/key.pem" for name in owners}
        there = present(host, list(keys.values()))
        keyless = tuple(name for name, key in keys.items() if key not in there)
    return Installation(host, facts, dependencies, code, keyless)
