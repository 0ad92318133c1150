"""Carries out the drawn disturbances one after the other on a lab of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import assert_never

from testbed.hosts.port import HostFault
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
from testbed.soak.disk import filled
from testbed.soak.draw import Disturbance, DisturbanceKind

__all__ = ["Disturber"]

TURN_S = 0.3  # between the two stops of `stop-in-turn`


class Disturber:
    """`done` has each disturbance with the wall time (ns) of its beginning and its end."""

    def __init__(
        self, deployment: Deployment, disk: Path | None, say: Callable[[str], None]
    ) -> None:
        self._deployment = deployment
        self._disk = disk
        self._say = say
        self.done: list[tuple[Disturbance, int, int]] = []

    def run(self, disturbances: Sequence[Disturbance]) -> None:
        """Returns when all is over. However it ends, nothing stays stopped or full."""
        began_s = time.monotonic()
        for each in disturbances:
            time.sleep(max(0.0, began_s + each.at_s - time.monotonic()))
            self._say(f"{each.at_s:.0f} s: {each.kind} {' '.join(each.targets)} {_for(each)}")
            start_ns = time.time_ns()
            self._strike(each)
            self.done.append((each, start_ns, time.time_ns()))

    def _strike(self, each: Disturbance) -> None:
        match each.kind:
            case DisturbanceKind.KILL | DisturbanceKind.KILL_REPLICAS:
                for name in each.targets:
                    self._signal(self._deployment.node(name), SIGKILL)
            case DisturbanceKind.STOP:
                self._stop(each.targets[0], each.for_s)
            case DisturbanceKind.STOP_IN_TURN:
                for name in each.targets:
                    self._stop(name, each.for_s)
                    time.sleep(TURN_S)
            case DisturbanceKind.POWER_CUT:
                self._cut(each.targets[0], each.for_s)
            case DisturbanceKind.DISK_FULL:
                assert self._disk is not None
                with filled(self._disk):
                    time.sleep(each.for_s)
            case _:
                assert_never(each.kind)

    def _stop(self, name: str, for_s: float) -> None:
        node = self._deployment.node(name)
        self._signal(node, SIGSTOP)
        try:
            time.sleep(for_s)
        finally:
            self._signal(node, SIGCONT)

    def _cut(self, host: str, for_s: float) -> None:
        nodes = [node for node in self._deployment.nodes if node.host == host]
        for node in nodes:
            self._signal(node, SIGKILL)
        for node in nodes:
            self._deployment.hold_down(node)
        try:
            time.sleep(for_s)
        finally:
            for node in nodes:
                self._deployment.start_node(node)

    def _signal(self, node: Node, number: Signals) -> None:
        with suppress(HostFault):  # it is being restarted, so it is down already
            self._deployment.host(node).signal(node.unit, number)


def _for(each: Disturbance) -> str:
    return f"for {each.for_s:.1f} s" if each.for_s else ""
