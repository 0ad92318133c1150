"""CPU limits that make a host as slow as a Raspberry Pi, and a cgroup hierarchy for each host's
systemd.

It supports both generations of cgroups and probes what the kernel offers.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import LabFault

__all__ = ["Groups", "groups", "remove"]

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_REMOVED_WITHIN_S = 10.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Groups:
    """Where a lab's groups are; None where the kernel does not support them.

    `cpu` is for limits. `tree` is for systemd: the unified hierarchy, wherever it is mounted. The
    old one does not report when the last process of a service ends.
    """

    cpu: Path | None
    tree: Path | None

    def make(self, lab: str, host: str, cpu_percent: int | None, systemd: bool) -> list[Path]:
        """Makes groups for one host. Returns the files by which a process joins them."""
        made = set()
        if cpu_percent is not None:
            if self.cpu is None:
                raise LabFault("this kernel has no CPU controller for --cpu; leave --cpu out")
            made.add(group := _group(self.cpu, lab, host))
            quota_us = _PERIOD_US * cpu_percent // 100
            if _unified(self.cpu):
                for above in (self.cpu, group.parent):
                    (above / "cgroup.subtree_control").write_text("+cpu")
                (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        if systemd:
            if self.tree is None:
                raise LabFault("no cgroup hierarchy for systemd in the hosts; use --no-systemd")
            made.add(_group(self.tree, lab, host))
        return [group / "cgroup.procs" for group in sorted(made)]

    @property
    def tree_version(self) -> str:
        """The version that a host mounts: v1 or v2."""
        return "v2" if self.tree and _unified(self.tree) else "v1"


def groups() -> Groups:
    """The hierarchies that this machine has."""
    cpu = None
    if _unified(_ROOT):
        if "cpu" in (_ROOT / "cgroup.controllers").read_text().split():
            cpu = _ROOT
    elif (_ROOT / "cpu/cgroup.procs").exists():
        cpu = _ROOT / "cpu"
    trees = (_ROOT, _ROOT / "unified", _ROOT / "systemd")
    return Groups(cpu, next((tree for tree in trees if (tree / "cgroup.procs").exists()), None))


def _unified(hierarchy: Path) -> bool:
    return (hierarchy / "cgroup.controllers").exists()


def _group(hierarchy: Path, lab: str, host: str) -> Path:
    group = hierarchy / _name(lab) / host
    group.mkdir(parents=True, exist_ok=True)
    return group


def remove(lab: str) -> None:
    """Remove a lab's groups in every hierarchy, deepest first. Processes in them are ended."""
    for base in (_ROOT, *_ROOT.glob("*/")):
        top = base / _name(lab)
        if top.is_dir():
            _remove_tree(top)


def _remove_tree(top: Path) -> None:
    until = time.monotonic() + _REMOVED_WITHIN_S
    while True:
        # The kernel removes an ended process from its group only a moment later.
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
        if not top.exists():
            return
        if time.monotonic() >= until:
            raise LabFault(f"cannot remove {top}: a process is still in it")
        time.sleep(_POLL_S)


def _name(lab: str) -> str:
    return f"testbed-{lab}"
