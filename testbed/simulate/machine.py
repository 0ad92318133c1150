"""One replica machine: a disk that stays, and the processes that run on it one after the other.

A process runs the production core, ledger, verifier and effect interpreter unchanged; only its
ports (clock, wire, timers, store, events) are the simulator's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chain.genesis import Genesis
from chain.keys import Signer
from nodes.ports import Party, StoreFull
from nodes.replica.driver import Rewrite
from nodes.replica.service import Service, Verified
from nodes.replica.timers import Fired
from nodes.wire.inbox import Inbox
from testbed.simulate.disk import Disk, PowerLossError
from testbed.simulate.scenario import KeptWrites
from testbed.simulate.scheme import Meter
from testbed.simulate.timeline import Timeline

__all__ = ["EPOCH_US", "Machine", "SimulatedProcess"]

EPOCH_US = 1_700_000_000_000_000  # wall time at the start of a run, microseconds since 1970
IDLE_US = 1_000_000  # how often a process writes without a vote
RESTART_US = 300_000  # delay until a supervisor restarts a process that ended by itself
FRAMES_PER_CHECK = 4  # so many frames are read in the time of one signature check


@dataclass(kw_only=True, eq=False)
class Machine:
    """`number` tells machines apart, `me` is the replica id: twins share one.

    `on_send` gets the frames that leave. `on_event` gets the events of the processes, and the
    machine's own: "starts" (a process is about to read what the disk kept), "loses-power" (with
    what the disk keeps of unsynced writes), "stopped-full" (a process ended because the disk is
    full). `turn_us` is how long frames gather. `wrap` makes the rewriter of a Byzantine replica for
    each of its processes.
    """

    number: int
    me: int
    genesis: Genesis
    scheme: Meter
    signer: Signer
    timeline: Timeline
    disk: Disk
    on_send: Callable[[Machine, Party, bytes], None]
    on_event: Callable[[Machine, str, dict[str, object]], None]
    skew_us: int
    turn_us: int
    wrap: Callable[[Service], Rewrite] | None
    keep_data_blocks: int | None
    work_us: int = 0  # time to check a replica's signature; 0: nothing takes time
    process: SimulatedProcess | None = None
    _installed: bool = False
    _downs: int = 0  # crash events in force
    _pauses: int = 0
    _inbox: Inbox = field(default_factory=Inbox)
    _working: bool = False  # whether it opens frames now
    _fired: Fired = field(default_factory=Fired)  # timers that fired meanwhile

    # --- life and death --------------------------------------------------------------------------

    def install(self) -> None:
        """The machine exists from now on and runs its process whenever it can."""
        self._installed = True
        self._start()

    def _start(self) -> None:
        if self._installed and self.process is None and not self._downs:
            self.emit("starts", {"height": self.disk.height})
            self.process = SimulatedProcess(self)
            self._guarded(self.process.start)

    def crash(self, at_operation: int, keeps: KeptWrites) -> None:
        """Power fails now (0) or at a later disk operation. `recover` brings the machine back."""
        self._downs += 1
        if at_operation and self.process is not None:
            self.disk.fail_at(at_operation, keeps)
        else:
            self._die(keeps)

    def recover(self) -> None:
        self._downs -= 1
        if self._downs == 0:
            self.disk.fail_at(0, KeptWrites.LOST)
            self._start()

    def wipe(self) -> None:
        """Power fails and the disk is lost. `recover` brings the machine back, empty."""
        self.crash(0, KeptWrites.LOST)
        self.disk.wipe()

    def pause(self) -> None:
        self._pauses += 1

    def resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self._turn()

    def _die(self, keeps: KeptWrites) -> None:
        if self.process is not None:
            self._stop(keeps)
            self.emit("loses-power", {"keeps": keeps.value})

    def _stop(self, keeps: KeptWrites) -> None:
        """The process ends. What it had not handled is lost."""
        self.process = None
        self._inbox = Inbox()
        self._working = False
        self._fired.clear()
        self.disk.power_off(keeps)

    def _guarded(self, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
            self.disk.show()
        except PowerLossError as loss:
            self._die(loss.keeps)
        except StoreFull:
            # The process ends as `nodes.replica.process` does: the transaction is lost, and nothing
            # that waited for it is sent.
            self._stop(KeptWrites.LOST)
            self.emit("stopped-full", {})
            self.timeline.after(RESTART_US, self._start)

    # --- what reaches it -------------------------------------------------------------------------

    def receive(self, party: Party, frame: bytes) -> None:
        if self.process is None or self._inbox.full(party):
            return
        idle = not self._inbox and not self._working
        self._inbox.put(party, frame)
        if self._pauses:
            return
        if not self.turn_us:
            self._turn()
        elif idle:
            self.timeline.after(self.turn_us, self._turn)

    def _turn(self) -> None:
        """Each step handles a part of the arrived frames and syncs once."""
        while self.process is not None and self._inbox and not (self._pauses or self._working):
            arrived = self._inbox.take()
            if self.work_us:
                self._working = True
                self._guarded(self._open, self.process, arrived)
            else:
                self._guarded(self.process.receive, arrived)

    def _open(self, process: SimulatedProcess, arrived: list[tuple[Party, bytes]]) -> None:
        """Opens frames. Their effects happen only after the time for all verification."""
        checks = self.scheme.checks
        verified = process.service.verify_all(arrived)
        checks = self.scheme.checks - checks
        work_us = self.work_us * (FRAMES_PER_CHECK * checks + len(arrived)) // FRAMES_PER_CHECK
        self.timeline.after(work_us, self._verified, process, verified)

    def _verified(self, process: SimulatedProcess, verified: list[tuple[Party, Verified]]) -> None:
        if process is not self.process:
            return
        if self._pauses:
            self.timeline.after(10_000, self._verified, process, verified)
            return
        self._working = False
        self._guarded(process.step, verified)
        for name in self._fired.take(self._inbox.taken):
            self.fire(process, name)
        self._turn()

    def fire(self, process: SimulatedProcess, name: str) -> None:
        """A timer of `process` is due. A paused process gets it late."""
        if process is not self.process:
            return
        if self._pauses:
            self.timeline.after(10_000, self.fire, process, name)
        elif self._working:
            self._fired.add(name, self._inbox.arrived)
        else:
            self._guarded(process.fire, name)

    # --- what leaves it ---------------------------------------------------------------------------

    def send(self, party: Party, frame: bytes) -> None:
        self.on_send(self, party, frame)

    def emit(self, event: str, fields: dict[str, object]) -> None:
        self.on_event(self, event, fields)

    def idle(self, process: SimulatedProcess) -> None:
        if process is self.process:
            self.timeline.after(IDLE_US, self.idle, process)
            if not self._pauses:
                self._guarded(process.service.driver.idle)


class SimulatedProcess:
    """A replica's process from one start to its end. Implements the ports of
    `nodes.replica.service.Service` except the store."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._timeline = machine.timeline
        self._deadlines: dict[str, int] = {}
        self._queued: dict[str, int] = {}
        self.service = Service(
            me=machine.me,
            genesis=machine.genesis,
            signer=machine.signer,
            scheme=machine.scheme,
            store=machine.disk,
            wire=self,
            clock=self,
            timers=self,
            events=self,
            wrap=machine.wrap,
            abstention=machine.disk.abstention(machine.genesis.consensus),
            on_abstention=machine.disk.note_abstention,
            keep_data_blocks=machine.keep_data_blocks,
        )

    def start(self) -> None:
        self.service.start()
        self._timeline.after(IDLE_US, self._machine.idle, self)

    def receive(self, arrived: list[tuple[Party, bytes]]) -> None:
        self.step(self.service.verify_all(arrived))

    def step(self, verified: list[tuple[Party, Verified]]) -> None:
        service = self.service
        service.step(verified)
        while service.clients.lagging and service.clients.pump():
            pass

    def fire(self, name: str) -> None:
        """The event heap has reached a deadline of `name`. The deadline may have moved since."""
        del self._queued[name]
        deadline_us = self._deadlines.get(name)
        if deadline_us is None:
            return
        if deadline_us > self._timeline.now_us:
            self._queue(name, deadline_us)
            return
        del self._deadlines[name]
        self.service.step((), (name,))

    # --- ports -----------------------------------------------------------------------------------

    def now_us(self) -> int:
        return EPOCH_US + self._timeline.now_us + self._machine.skew_us

    def monotonic_us(self) -> int:
        return self._timeline.now_us

    def set(self, name: str, delay_us: int) -> None:
        deadline_us = self._timeline.now_us + delay_us
        self._deadlines[name] = deadline_us
        queued_us = self._queued.get(name)
        # A timer that is postponed again and again has only one entry in the heap.
        if queued_us is None or queued_us > deadline_us:
            self._queue(name, deadline_us)

    def _queue(self, name: str, deadline_us: int) -> None:
        self._queued[name] = deadline_us
        self._timeline.at(deadline_us, self._due, name, deadline_us)

    def _due(self, name: str, deadline_us: int) -> None:
        if self._queued.get(name) == deadline_us:
            self._machine.fire(self, name)

    def cancel(self, name: str) -> None:
        self._deadlines.pop(name, None)

    def send(self, party: Party, frame: bytes) -> None:
        self._machine.send(party, frame)

    def congested(self, party: Party) -> bool:
        return False

    def emit(self, event: str, **fields: object) -> None:
        self._machine.emit(event, fields)
