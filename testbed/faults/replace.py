"""`replica.replace`: a replica is lost for good, and the operator replaces it by a spare.

The chain decides two changes: first the spare is added, and in the next epoch the lost replica is
removed. The order matters, because the chain refuses to have fewer than four replicas. Each takes
effect after the next checkpoint (`chain.pbft.membership`).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from inventory.model import Lab
from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, OnProcesses, register, those
from testbed.errors import LabFault
from testbed.faults.device import operator_of
from testbed.provision.layout import Node

if TYPE_CHECKING:
    from chain.ledger.statement import Statement
    from testbed.standing.operator import Operator

__all__ = ["ReplaceAction"]


class Replace(OnProcesses):
    """One replica is killed and stays down. The operator makes the chain add a spare (a host with
    the role `spare`), and in the next epoch remove the lost replica. `for`: how long all this may
    take. The report says how long after the order the first block of each epoch came."""


class ReplaceAction(Injection):
    """The spare runs from `arm` on. The others ignore it until it is a member."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._spare: Node | None = None
        self._boundary = 0  # of the newest change; 0: none is decided yet
        self._epoch = 0
        self._until_s = 0.0
        self._ordered_ns = 0
        self._took_s: list[float] = []

    def arm(self) -> None:
        deployment = self.scene.deployment
        begun = deployment.begun
        free = [node for node in deployment.with_role("spare") if node.name not in begun]
        if not free:
            raise LabFault("every spare of this lab is in use already")
        self._spare = free[0]
        deployment.start_node(self._spare)
        deployment.wait_ready(self._spare)

    def apply(self) -> None:
        self._until_s = time.monotonic() + self.scene.event.for_ms / 1000
        self.scene.deployment.hold_down(self._lost)

    def observe(self, within_s: float) -> Seen | None:
        """Seen when the first block of the epoch with both comes, and then the first of the epoch
        without the lost replica. The second change is ordered when the first has taken effect. If
        the chain decides nothing until `for` has passed, nothing is seen."""
        if not self._ordered_ns:
            self._ordered_ns = time.time_ns()
            self._order(self._add)
            if self._boundary:
                self.scene.watch.join(self._new)
        if not self._boundary:
            self.scene.pause(within_s)
            return None
        if not self.scene.watch.wait_for(lambda: self._first_block_ns() > 0, within_s):
            return None
        self._took_s.append((self._first_block_ns() - self._ordered_ns) / 1e9)
        if len(self._took_s) == 1:
            self._order(self._remove)
            return None
        self.scene.watch.leave(self._lost)
        added, removed = self._took_s
        return Seen(
            f"{self._new.name} decides after {added:.1f} s, {self._lost.name} is out after "
            f"{removed:.1f} s",
            {"epoch": self._epoch, "added_s": round(added, 3), "removed_s": round(removed, 3)},
        )

    def heal(self) -> None:
        """If it was not replaced, the old replica is started again."""
        if len(self._took_s) < 2:
            self.scene.deployment.start_node(self._lost)

    def verify(self, within_s: float) -> bool:
        """Whether the spare has caught up with the others."""
        watch = self.scene.watch
        tip, view = watch.tip(), watch.nodes[self._new.name]
        return len(self._took_s) == 2 and watch.wait_for(lambda: view.height >= tip, within_s)

    @property
    def _new(self) -> Node:
        assert self._spare is not None, "arm was not called"
        return self._spare

    @property
    def _lost(self) -> Node:
        lost, *_ = self.scene.nodes("on")
        return lost

    async def _add(self, operator: Operator) -> Statement:
        spki = self.scene.deployment.material.keys[self._new.name].spki
        return await operator.add_replica(self._new.index, base64.b64decode(spki))

    async def _remove(self, operator: Operator) -> Statement:
        return await operator.remove_replica(self._lost.index)

    def _order(self, ask: Callable[[Operator], Awaitable[Statement]]) -> None:
        async def act(operator: Operator) -> None:
            decided = await ask(operator)
            assert decided.epoch is not None, "the record of a change names the epoch"
            assert decided.boundary is not None, "and its boundary"
            self._epoch, self._boundary = decided.epoch, decided.boundary

        self._boundary = 0
        with suppress(LabFault):
            operator_of(self.scene.deployment).operate(act, self._until_s - time.monotonic())

    def _first_block_ns(self) -> int:
        """Wall time at which a member executed the first block of the newest epoch; 0 if none
        has."""
        times = [
            int(event["t"])
            for view in self.scene.watch.replicas
            for event in view.logged("block")
            if event["height"] == self._boundary + 1
        ]
        return min(times, default=0)


def _with_a_spare(lab: Lab, _hosts: tuple[str, ...]) -> str | None:
    return (
        None
        if lab.with_role("spare")
        else "no host of this lab has the role spare; it takes one more host"
    )


register(
    Kind(
        "replica.replace",
        Replace,
        category="action",
        layer="consensus",
        summary="a replica is lost for good, and the chain replaces it by a spare",
        mechanisms=(
            Mechanism("operator", ReplaceAction, available=_with_a_spare, systems=("chain",)),
        ),
        impairs=those("on"),
        seen="the first blocks of two new epochs: with the spare, and without the lost one",
    )
)
