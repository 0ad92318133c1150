"""CPU limits that make a host as slow as a Raspberry Pi, and systemd's own hierarchy per host.

Both generations of cgroups; what the kernel offers is probed, never assumed.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import LabFault

__all__ = ["Groups", "groups", "remove"]

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_REMOVED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Groups:
    """Where a lab's groups go: `cpu` for limits (None: no such controller), `tree` for systemd."""

    version: str
    cpu: Path | None
    tree: Path | None

    def make(self, lab: str, host: str, cpu_percent: int | None, systemd: bool) -> list[Path]:
        """A group for one host; returns the files that a process joins it by."""
        join = []
        if cpu_percent is not None:
            if self.cpu is None:
                raise LabFault("this kernel has no CPU controller for --cpu; leave --cpu out")
            group = self._group(self.cpu, lab, host)
            quota_us = _PERIOD_US * cpu_percent // 100
            if self.version == "v2":
                (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota_us))
            join.append(group / "cgroup.procs")
        if systemd:
            if self.tree is None:
                raise LabFault("no cgroup hierarchy for systemd in the hosts; use --no-systemd")
            group = self._group(self.tree, lab, host)
            if group / "cgroup.procs" not in join:
                join.append(group / "cgroup.procs")
        return join

    def _group(self, base: Path, lab: str, host: str) -> Path:
        group = base / _name(lab) / host
        group.mkdir(parents=True, exist_ok=True)
        if self.version == "v2" and self.cpu:
            (group.parent / "cgroup.subtree_control").write_text("+cpu")
        return group


def groups() -> Groups:
    """What this machine has."""
    controllers = _ROOT / "cgroup.controllers"
    if controllers.exists():
        cpu = "cpu" in controllers.read_text().split()
        if cpu:
            with suppress(OSError):
                (_ROOT / "cgroup.subtree_control").write_text("+cpu")
        return Groups("v2", _ROOT if cpu else None, _ROOT)
    cpu_v1, tree = _ROOT / "cpu", _ROOT / "systemd"
    return Groups(
        "v1",
        cpu_v1 if (cpu_v1 / "cgroup.procs").exists() else None,
        tree if (tree / "cgroup.procs").exists() else None,
    )


def remove(lab: str) -> None:
    """Remove a lab's groups in every hierarchy, deepest first, ending what is still in them."""
    for base in (_ROOT, *_ROOT.glob("*/")):
        top = base / _name(lab)
        if top.is_dir():
            _remove_tree(top)


def _remove_tree(top: Path) -> None:
    until = time.monotonic() + _REMOVED_WITHIN_S
    pause = threading.Event()
    while True:
        # A process leaves its group only when the kernel is done with it, a moment after its end.
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
        if not top.exists():
            return
        if time.monotonic() >= until:
            raise LabFault(f"cannot remove {top}: a process is still in it")
        pause.wait(0.02)


def _name(lab: str) -> str:
    return f"testbed-{lab}"
