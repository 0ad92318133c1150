"""Disks that are full or slow: `disk.full` and `disk.slow`. (`disk.torn` is in `ledger`.)

On a host that is a separate machine, the disk is really filled, with files that `testbed restore`
knows by name. In loopback all share this machine's disk, so the switch of the replica's process
only makes its store look full.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import Mechanism, OnProcesses
from testbed.campaign.quantities import SpanField
from testbed.faults.hosts import only_ssh
from testbed.faults.processes import ProcessFault, register_fault
from testbed.faults.switched import SwitchFault, by_switch
from testbed.hosts.port import NodeCommand
from testbed.programs import shell
from testbed.provision.layout import Node

__all__ = ["FullByFile", "FullByOrder", "SlowByOrder"]

FILL_S_MAX = 300.0
FILE = "fault-full"
SLOW_SHARE = 0.5  # of the delay must be seen
BLOCKS = 5


class Full(OnProcesses):
    """Leaves no room on the disks of processes until `for` has passed. A replica that cannot write
    sends no votes. It waits for room and then starts again from its disk. On a separate machine it
    continues until its store needs more than the 16 MB that its log has already."""


class Slow(OnProcesses):
    """Makes each commit of replicas take `by` longer until `for` has passed."""

    by: SpanField


class FullByFile(ProcessFault):
    undo_name = "room"

    def undo(self, node: Node) -> NodeCommand | None:
        return NodeCommand(("rm", "-f", FILE, f"{FILE}.rest"))

    def strike(self, node: Node) -> None:
        self.host(node).run(shell("faults/on_host/fill.sh", FILE), timeout_s=FILL_S_MAX)

    def repair(self, node: Node) -> None:
        self.host(node).run(["rm", "-f", FILE, f"{FILE}.rest"])

    def observe(self, within_s: float) -> Seen | None:
        """Seen by the host's free space. A replica continues for a while, because its log has some
        room already."""
        free_kb = {node.name: self._free_kb(node) for node in self.hit}
        if max(free_kb.values()) > 0:
            self.scene.pause(min(within_s, 0.2))
            return None
        return Seen("no room is left", {"free_kb": free_kb})

    def _free_kb(self, node: Node) -> int:
        said = self.host(node).run(["df", "-Pk", "."]).stdout
        return int(said.splitlines()[1].split()[3])


class FullByOrder(SwitchFault):
    seam = "store"

    def order(self, node: Node) -> dict[str, object]:
        return {"full": True}

    def observe(self, within_s: float) -> Seen | None:
        def lost() -> bool:
            return all(map(self.lost_by, self.hit))

        if not self.scene.watch.wait_for(lost, within_s):
            return None
        return Seen("others lost their link to it: it waits for room")


class SlowByOrder(SwitchFault):
    seam = "store"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._by_ms = float(str(scene.event.params["by_ms"]))
        self._usual_ms: dict[str, float] = {}

    def order(self, node: Node) -> dict[str, object]:
        return {"commit_delay_ms": round(self._by_ms)}

    def observe(self, within_s: float) -> Seen | None:
        """Seen by slower blocks. A replica persists before it sends, so it commits between
        accepting a proposal and getting a quorum for it."""

        def took_ms() -> dict[str, float]:
            new = {node.name: self.since.logged(node.name, "block") for node in self.hit}
            return {name: self._took_ms(blocks) for name, blocks in new.items()}

        def slow() -> bool:
            least = SLOW_SHARE * self._by_ms
            return all(ms >= self._usual_ms[name] + least for name, ms in took_ms().items())

        if not self.scene.watch.wait_for(slow, within_s):
            return None
        read = {"ms": took_ms(), "usual_ms": self._usual_ms}
        return Seen("its blocks take so much longer", read)

    def strike(self, node: Node) -> None:
        self._usual_ms[node.name] = self._took_ms(self.scene.watch.nodes[node.name].logged("block"))
        super().strike(node)

    def _took_ms(self, blocks: list[dict[str, Any]]) -> float:
        """The median time of the newest blocks in ms; 0 if there are too few."""
        newest = [float(event["executed_us"]) / 1000 for event in blocks[-BLOCKS:]]
        return median(newest) if len(newest) == BLOCKS else 0.0


register_fault(
    "disk.full",
    Full,
    Mechanism("file", FullByFile, available=only_ssh),
    by_switch(FullByOrder),
    summary="no room is left on a disk",
    seen="the host says that no room is left; in loopback other replicas lose their link to it",
    disturbs=("disk",),
)
register_fault(
    "disk.slow",
    Slow,
    by_switch(SlowByOrder),
    summary="each commit of a replica takes longer",
    seen="its log shows that each block takes that much longer",
)
