"""Faults by signals: `process.crash`, `process.stop` and `process.restart-storm`."""

from __future__ import annotations

from contextlib import suppress
from signal import Signals

from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import Mechanism, OnProcesses
from testbed.campaign.quantities import Duration, SpanField
from testbed.faults.processes import EndedFault, ProcessFault, register_fault
from testbed.faults.repeating import Repeating
from testbed.hosts.port import HostFault, NodeCommand, UnitState
from testbed.provision.layout import Node

__all__ = ["CrashFault", "StopFault", "StormFault"]

STORM_LIVES_MIN = 2  # that were ended, besides the first


class Crash(OnProcesses):
    """Kills processes with SIGKILL and keeps them down until `for` has passed. Then they are
    started again. They keep only what is on their disks."""


class Stop(OnProcesses):
    """Stops processes with SIGSTOP and lets them go on with SIGCONT when `for` has passed. They
    keep their memory and their connections, and do not know that time has passed."""


class Storm(OnProcesses):
    """Kills processes with SIGKILL again and again until `for` has passed, on average every
    `pause`. Their supervisor starts them again; if it gives one up, the fault starts that one."""

    pause: SpanField = Duration.parse("1s")


class CrashFault(EndedFault):
    def strike(self, node: Node) -> None:
        self.host(node).signal(node.unit, Signals.SIGKILL)
        self.scene.deployment.hold_down(node)  # so that its supervisor does not start it again

    def observe(self, within_s: float) -> Seen | None:
        others = self.others_go_on(within_s) if self.all_down() else None
        return Seen("the process is gone, and the others went on", others) if others else None


class StopFault(ProcessFault):
    undo_name = "continue"

    def undo(self, node: Node) -> NodeCommand | None:
        return self.host(node).signal_command(node.unit, Signals.SIGCONT)

    def strike(self, node: Node) -> None:
        self.host(node).signal(node.unit, Signals.SIGSTOP)

    def repair(self, node: Node) -> None:
        with suppress(HostFault):  # it was killed meanwhile, and the new process is not stopped
            self.host(node).signal(node.unit, Signals.SIGCONT)

    def observe(self, within_s: float) -> Seen | None:
        if not all(self._is_stopped(node) for node in self.hit):
            return None
        others = self.others_go_on(within_s)
        return Seen("the kernel says stopped, and the others went on", others) if others else None

    def verify(self, within_s: float) -> bool:
        return not any(map(self._is_stopped, self.hit)) and super().verify(within_s)

    def _is_stopped(self, node: Node) -> bool:
        pid = self.host(node).status(node.unit).pid
        state = self.host(node).run(["ps", "-o", "state=", "-p", str(pid or 0)], check=False)
        return state.stdout.strip().startswith("T")


class StormFault(EndedFault):
    """The event's random stream draws the times of the kills."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._kills = Repeating("restart-storm", self._all_again)
        self._lives: dict[str, set[int]] = {}

    def apply(self) -> None:
        super().apply()
        pause_s = float(str(self.scene.event.params["pause_ms"])) / 1000
        self._kills.start(lambda: pause_s * self.scene.rng.uniform(0.5, 1.5))

    def strike(self, node: Node) -> None:
        self._lives[node.name] = set()
        self.kill(node)

    def _all_again(self) -> None:
        for node in self.hit:
            self._again(node)

    def _again(self, node: Node) -> None:
        status = self.host(node).status(node.unit)
        if status.state is not UnitState.ACTIVE:
            self.scene.deployment.start_node(node)
        elif status.pid is not None:
            self._lives[node.name].add(status.pid)
            self.kill(node)

    def observe(self, within_s: float) -> Seen | None:
        self._kills.check()
        lives = {name: len(pids) for name, pids in self._lives.items()}
        if min(lives.values()) < STORM_LIVES_MIN:
            self.scene.pause(min(within_s, 0.1))
            return None
        return Seen("its supervisor started it again, and again", {"lives": lives})

    def repair(self, node: Node) -> None:
        self._kills.end()
        super().repair(node)

    def verify(self, within_s: float) -> bool:
        self._kills.check()
        return super().verify(within_s)


register_fault(
    "process.crash",
    Crash,
    Mechanism("signal", CrashFault),
    summary="kill -9 of a process, which is started again when `for` has passed",
    seen="the process is gone; others go to a later view, or on without it",
)
register_fault(
    "process.stop",
    Stop,
    Mechanism("signal", StopFault),
    summary="SIGSTOP to a process, SIGCONT when `for` has passed",
    seen="the kernel says stopped; others go to a later view, or on without it",
)
register_fault(
    "process.restart-storm",
    Storm,
    Mechanism("signal", StormFault),
    summary="kill -9 of a process again and again, as soon as it runs",
    seen="its supervisor says that it started it again, and again",
)
