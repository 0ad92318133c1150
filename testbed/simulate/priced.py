"""A machine whose work takes time: the code that runs on the boards, at calibrated prices.

A turn is like one of `nodes.replica.event_loop`: it takes a core, verifies waiting frames, handles
them with the timers that fired, syncs, sends frame by frame, and gives the core back. Only the time
of each part is simulated. Votes and blocks are those of the product.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from chain.block import Head
from chain.pbft.inputs import Received
from chain.pbft.messages import Commit, PrePrepare
from chain.pbft.state_machine import VerifiedRequest
from nodes.ports import Party
from nodes.replica.service import Superfluous, Verified
from testbed.simulate.costs import Cores, Costs
from testbed.simulate.machine import Machine, SimulatedProcess
from testbed.simulate.scheme import MeteredSigner

__all__ = ["PricedBlock", "PricedMachine", "Spent", "Stopwatch", "kind_of", "pricing"]


class PricedBlock(msgspec.Struct):
    """The times of one block on the virtual clock. `proposer_us` is how long it took from its
    proposal to its execution, both at the proposer."""

    records: int = 0
    proposed_us: int | None = None
    proposer_us: int = 0
    executed_us: list[int] = []  # by each replica, at the end of its turn

    def decided_us(self, strong: int) -> int | None:
        """When `strong` replicas had executed it; None if they have not."""
        return sorted(self.executed_us)[strong - 1] if len(self.executed_us) >= strong else None


class Spent(msgspec.Struct):
    """Work of all replicas by purpose: microseconds, and how often."""

    us: Counter[str] = msgspec.field(default_factory=Counter)
    counts: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, what: str, us: float, count: int = 1) -> float:
        self.us[what] += us  # type: ignore[assignment]  # a Counter holds floats as well
        self.counts[what] += count
        return us


class Stopwatch:
    """The times of one run. All machines share one."""

    def __init__(self) -> None:
        self.blocks: defaultdict[int, PricedBlock] = defaultdict(PricedBlock)
        self.spent = Spent()


def pricing(costs: Costs, stopwatch: Stopwatch) -> Callable[..., Machine]:
    """Makes the argument `machine` of `testbed.simulate.world.Hardware`."""
    shared: Cores | None = None

    def make(**parts: Any) -> Machine:
        nonlocal shared
        cores = shared or Cores(parts["timeline"], costs.cores if costs.shared else 1)
        if costs.shared:
            shared = cores
        return PricedMachine(costs, cores, stopwatch, **parts)

    return make


class PricedMachine(Machine):
    """It has no faults: its process runs from start to end."""

    def __init__(self, costs: Costs, cores: Cores, stopwatch: Stopwatch, **parts: Any) -> None:
        super().__init__(**parts)
        self._costs = costs
        self._cores = cores
        self._stopwatch = stopwatch
        self._spent = stopwatch.spent
        self._meter = MeteredSigner(self.signer)
        self.signer = self._meter
        self._rung = False  # a timer fired, and no turn has handled it yet
        self._outgoing: dict[Party, list[bytes]] = {}
        self._seen = 0  # greatest height that the stopwatch has

    # --- a turn ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        process = self.process
        if process is not None and not self._working and (self._inbox or self._rung):
            self._working = True
            self._cores.take(self._verify, process)

    def fire(self, process: SimulatedProcess, name: str) -> None:
        self._fired.add(name, self._inbox.arrived)
        self._rung = True
        self._turn()

    def _verify(self, process: SimulatedProcess) -> None:
        self._rung = False
        frames = self._inbox.take()
        before = self.scheme.count
        verified = process.service.verify_all(frames)
        checks = self.scheme.count - before
        us = self._opening_us([one for _, one in verified], checks)
        self.timeline.after(round(us), self._handle, process, verified)

    def _opening_us(self, verified: Sequence[Verified], checks: int) -> float:
        costs, us = self._costs, 0.0
        for one in verified:
            us += self._spent.add("open", costs.price(kind_of(one)).open_us)
            match one:
                case Received(message=PrePrepare()):
                    proposed = len(one.requests)
                    us += self._spent.add("open", proposed * costs.price("Request").open_us, 0)
                case VerifiedRequest():
                    us += self._spent.add("open", costs.price("Request").open_us, 0)
                case Received(message=Commit()):
                    checks += costs.commits_checked
                case Superfluous():
                    checks += costs.superfluous_checked
                case _:
                    pass
        check_us = self._spent.add("check", checks * costs.check_us, checks)
        # Threads share the checks; the rest holds the interpreter's lock.
        return us + check_us / (1 if costs.shared else costs.cores)

    def _handle(self, process: SimulatedProcess, verified: list[tuple[Party, Verified]]) -> None:
        signed, syncs, checks = self._meter.signed, self.disk.syncs, self.scheme.count
        self._guarded(process.step, verified)
        for name in self._fired.take(self._inbox.taken):
            self._guarded(process.fire, name)
        us = sum(self._handling_us(one) for _, one in verified)
        signed, syncs = self._meter.signed - signed, self.disk.syncs - syncs
        checks = self.scheme.count - checks
        us += self._spent.add("handle", syncs * self._costs.price("Prepared").handle_us, 0)
        us += self._spent.add("check", checks * self._costs.check_us, checks)
        us += self._spent.add("sign", signed * self._costs.sign_us, signed)
        us += self._execution_us()
        self.timeline.after(round(us), self._sync, syncs)

    def _handling_us(self, one: Verified) -> float:
        kind = kind_of(one)
        if kind == "Superfluous":
            if not self._costs.superfluous_checked:
                return 0.0
            kind = "Prepare"
        us = self._spent.add("handle", self._costs.price(kind).handle_us)
        if isinstance(one, Received):
            share = len(one.requests) * self._costs.price("Request").handle_us
            us += self._spent.add("handle", share, 0)
        return us

    def _execution_us(self) -> float:
        us = 0.0
        for stored in self.disk.blocks(self._seen + 1, self.disk.height):
            records = Head.decode(stored.block.head).count
            us += self._spent.add("execute", self._costs.price("Block").handle_us)
            us += self._spent.add("execute", records * self._costs.price("Record").handle_us, 0)
        return us

    def _sync(self, syncs: int) -> None:
        """Syncs. Another machine may have the core meanwhile."""
        if not syncs:
            self._send_all()
            return
        us = self._spent.add("sync", syncs * self._costs.sync_us, syncs)
        self._cores.give()
        self.timeline.after(round(us), self._cores.take, self._send_all)

    def _send_all(self) -> None:
        """Sends. Frames to the same party leave in one write, as in `nodes.wire.link`."""
        for height in range(self._seen + 1, self.disk.height + 1):
            self._stopwatch.blocks[height].executed_us.append(self.timeline.now_us)
        self._seen = self.disk.height
        writes, self._outgoing = self._outgoing, {}
        send_us = self._costs.send_us
        for place, (party, frames) in enumerate(writes.items(), 1):
            for frame in frames:
                self.timeline.after(round(place * send_us), self.on_send, self, party, frame)
        us = self._spent.add("send", len(writes) * send_us, len(writes))
        self.timeline.after(round(us), self._end)

    def _end(self) -> None:
        self._working = False
        self._cores.give()
        self._turn()

    # --- what leaves it --------------------------------------------------------------------------

    def send(self, party: Party, frame: bytes) -> None:
        self._outgoing.setdefault(party, []).append(frame)

    def emit(self, event: str, fields: dict[str, object]) -> None:
        if event == "block" and "proposed_us" in fields:
            height, count, took_us = fields["height"], fields["count"], fields["executed_us"]
            assert isinstance(height, int)
            assert isinstance(count, int)
            assert isinstance(took_us, int)
            block = self._stopwatch.blocks[height]
            block.records, block.proposer_us = count, took_us
            block.proposed_us = self.timeline.now_us - took_us
        super().emit(event, fields)


def kind_of(one: Verified) -> str:
    if isinstance(one, Received):
        return type(one.message).__name__
    return "Submit" if isinstance(one, VerifiedRequest) else type(one).__name__
