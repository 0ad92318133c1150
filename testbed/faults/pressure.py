"""Starves a process of a resource: `process.cpu`, `process.memory` and `process.io`.

A helper on the process's host does it: a unit whose name begins with `fault-`, so that `testbed
restore` finds it. It needs no root. The kernel's figures show the fault.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from contextlib import suppress
from signal import Signals
from typing import Annotated

from pydantic import Field

from testbed import programs
from testbed.campaign.injection import Seen
from testbed.campaign.kinds import Mechanism, OnProcesses
from testbed.errors import LabFault
from testbed.faults.processes import ProcessFault, register_fault
from testbed.hosts.port import CommandFailed, HostFault, NodeCommand, Unit
from testbed.provision.layout import Node

__all__ = ["CpuFault", "IoFault", "MemoryFault"]

STOPPED_SHARE_MIN = 0.5  # of the intended share
WRITTEN_BYTES_MIN = 4 * 1024 * 1024


class Cpu(OnProcesses):
    """Lets processes run for `percent` of the time only: a helper on their host stops and continues
    them every 50 ms, as cpulimit does. Other processes of the host keep the processor."""

    percent: Annotated[int, Field(ge=1, le=90)] = 20


class Memory(OnProcesses):
    """Takes `mb` megabytes of memory away from the hosts of processes: a helper holds them. If a
    host runs out of memory, the kernel ends the helper first, and then the fault is not seen."""

    mb: Annotated[int, Field(ge=1, le=1_000_000)]


class Io(OnProcesses):
    """Keeps the disks of processes busy: a helper on their host writes 1 MiB and syncs it, again
    and again, in a file of at most 64 MiB."""


class PressureFault(ProcessFault):
    """A fault by a helper on the host. `what` is the helper's name."""

    what: str

    @abstractmethod
    def argv(self, node: Node) -> list[str]:
        """The helper's command."""

    def undo(self, node: Node) -> NodeCommand | None:
        return self.host(node).stop_command(self._unit(node))

    def strike(self, node: Node) -> None:
        self.host(node).start(Unit(self._unit(node), tuple(self.argv(node)), restart=False))

    def repair(self, node: Node) -> None:
        self.host(node).stop(self._unit(node))

    def verify(self, within_s: float) -> bool:
        left = [node for node in self.hit if self._unit(node) in self.host(node).units()]
        return not left and super().verify(within_s)

    def program(self, node: Node, name: str, *arguments: object) -> list[str]:
        python = self.scene.deployment.python(node)
        return programs.python(python, f"faults/on_host/{name}", *map(str, arguments))

    def param(self, name: str) -> int:
        return int(str(self.scene.event.params[name]))

    def looked(self, node: Node, unit: str) -> dict[str, float]:
        """What the kernel says of a unit's process; empty if it has none."""
        pid = self.host(node).status(unit).pid
        try:
            said = self.host(node).run(self.program(node, "look.py", pid or 0)).stdout
        except CommandFailed:
            return {}
        return {str(name): float(value) for name, value in json.loads(said).items()}

    def _unit(self, node: Node) -> str:
        return f"fault-{self.what}-{node.unit.removeprefix('m2m-')}"[:48]


class CpuFault(PressureFault):
    what = "cpu"
    undo_name = "release-cpu"

    def argv(self, node: Node) -> list[str]:
        pid = self.host(node).status(node.unit).pid
        if pid is None:
            raise LabFault(f"{node.name} has no process at the moment")
        return self.program(node, "throttle.py", pid, self.param("percent"))

    def repair(self, node: Node) -> None:
        super().repair(node)
        with suppress(HostFault):  # perhaps the helper was killed while the process was stopped
            self.host(node).signal(node.unit, Signals.SIGCONT)

    def observe(self, within_s: float) -> Seen | None:
        found = {node.name: self.looked(node, node.unit).get("stopped", 0.0) for node in self.hit}
        least = STOPPED_SHARE_MIN * (100 - self.param("percent")) / 100
        if min(found.values()) < least:
            return None
        return Seen("the kernel says stopped for a part of the time", found)


class MemoryFault(PressureFault):
    what = "memory"
    undo_name = "release-memory"

    def argv(self, node: Node) -> list[str]:
        return self.program(node, "ballast.py", self.param("mb"))

    def observe(self, within_s: float) -> Seen | None:
        looks = {node.name: self.looked(node, self._unit(node)) for node in self.hit}
        if any(look.get("rss_kb", 0) < 1024 * self.param("mb") for look in looks.values()):
            self.scene.pause(min(within_s, 0.1))
            return None
        left = {name: look["available_kb"] for name, look in looks.items()}
        return Seen("the kernel says that so much is held", {"available_kb": left})


class IoFault(PressureFault):
    what = "io"
    undo_name = "release-io"

    def argv(self, node: Node) -> list[str]:
        return self.program(node, "writer.py", f"fault-io-{node.name}")

    def observe(self, within_s: float) -> Seen | None:
        found = {
            node.name: self.looked(node, self._unit(node)).get("written", 0) for node in self.hit
        }
        if min(found.values()) < WRITTEN_BYTES_MIN:
            self.scene.pause(min(within_s, 0.1))
            return None
        return Seen("the kernel counts what was written", {"bytes": found})


register_fault(
    "process.cpu",
    Cpu,
    Mechanism("helper", CpuFault),
    summary="a process gets only a part of the processor's time",
    seen="the kernel shows that it is stopped for the rest of the time",
)
register_fault(
    "process.memory",
    Memory,
    Mechanism("helper", MemoryFault),
    summary="a process's host has less memory",
    seen="the kernel shows that a helper holds this memory",
)
register_fault(
    "process.io",
    Io,
    Mechanism("helper", IoFault),
    summary="a process's disk is busy with writes and syncs",
    seen="the kernel counts the writes of a helper",
)
