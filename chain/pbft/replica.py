"""One replica of the consensus: takes inputs, gives effects.

This file has the public interface and finds the handler of an input. `state` has the state.
Handlers are in `normal` (three phases), `checkpoint`, `progress` (timers), `view_change`, `status`
(retransmission), `transfer` (catching up), `membership` and `recovery` (restart).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, assert_never

from chain.errors import Misuse
from chain.genesis import Membership
from chain.pbft import (
    checkpoint,
    normal,
    progress,
    recovery,
    requests,
    status,
    transfer,
    view_change,
)
from chain.pbft.effects import Durable, Effect, Timer
from chain.pbft.inputs import (
    Executed,
    Input,
    Installed,
    InstallFailed,
    Received,
    Submitted,
    TimerFired,
)
from chain.pbft.log import Log
from chain.pbft.message_filter import MessageFilter
from chain.pbft.messages import (
    Batch,
    Bodies,
    Checkpoint,
    Commit,
    FetchBatch,
    FetchBodies,
    FetchHeads,
    Forward,
    Heads,
    NewView,
    Prepare,
    PrePrepare,
    ReplicaMessage,
    StatusMessage,
    ViewChange,
)
from chain.pbft.state import ReplicaState

__all__ = ["Replica"]

_Handler = Callable[[ReplicaState, Any], None]

# Statements about the order of requests: they count in their own epoch only.
_OF_THE_EPOCH: dict[type, _Handler] = {
    PrePrepare: normal.on_pre_prepare,
    Prepare: normal.on_prepare,
    Commit: normal.on_commit,
    Checkpoint: checkpoint.on_checkpoint,
    ViewChange: view_change.on_view_change,
    NewView: view_change.on_new_view,
    Forward: requests.on_forward,
}
_VOTES = frozenset({Prepare, Commit})
# Questions and answers of replicas that may be behind: their contents prove themselves.
_OF_ANY_EPOCH: dict[type, _Handler] = {
    StatusMessage: status.on_status,
    FetchBatch: status.on_fetch_batch,
    Batch: status.on_batch,
    FetchHeads: status.on_fetch_heads,
    Heads: transfer.on_heads,
    FetchBodies: status.on_fetch_bodies,
    Bodies: transfer.on_bodies,
}


class Replica:
    """The pure core. Deterministic in its arguments and inputs; holds no clock and no randomness.

    `state` is a new one. `durable`: everything persisted and not forgotten, in any order (see
    `effects.Durable`).
    """

    def __init__(self, state: ReplicaState, durable: Sequence[Durable] = ()) -> None:
        self._s = state
        self._started = False
        recovery.restore(self._s, durable)

    def start(self, now_us: int) -> list[Effect]:
        """To be called first, once: arms timers and sends again what was sent before a crash."""
        s = self._begin(now_us)
        if self._started:
            raise Misuse("started twice")
        self._started = True
        recovery.resume(s)
        return self._proceed()

    def handle(self, item: Input, now_us: int) -> list[Effect]:
        """The effects of `item`, in order. `now_us` is the wall time, microseconds since 1970."""
        s = self._begin(now_us)
        if s.halted:
            return s.out
        match item:
            case Received():
                self._receive(item)
                if not s.out and type(item.message) in _VOTES:
                    return s.out  # counted, and nothing follows: no step has become possible
            case Executed():
                checkpoint.on_executed(s, item)
                if s.pool.later:
                    requests.rescreen_later(s)
            case Submitted():
                requests.on_submitted(s, item)
            case TimerFired():
                self._fire(item.timer)
            case Installed():
                transfer.on_installed(s, item)
            case InstallFailed():
                transfer.on_install_failed(s, item)
            case _:
                assert_never(item)
        return self._proceed()

    def submit(self, items: Sequence[Submitted], now_us: int) -> list[Effect]:
        """Like `handle` for each of them, but a batch is made of all of them together."""
        s = self._begin(now_us)
        if s.halted:
            return s.out
        for item in items:
            requests.on_submitted(s, item)
        return self._proceed()

    def _begin(self, now_us: int) -> ReplicaState:
        self._s.now_us = now_us
        self._s.out = []
        return self._s

    def _receive(self, item: Received[ReplicaMessage]) -> None:
        kind = type(item.message)
        handler = _OF_THE_EPOCH.get(kind)
        if handler is not None:
            if item.message.epoch == self._s.epoch:
                handler(self._s, item)
            return
        handler = _OF_ANY_EPOCH.get(kind)
        if handler is None:
            raise Misuse(f"{kind.__name__} is not for the core")
        handler(self._s, item)

    def _fire(self, timer: Timer) -> None:
        match timer:
            case Timer.VIEW:
                view_change.on_timer(self._s)
            case Timer.HEARTBEAT:
                progress.heartbeat(self._s)
            case Timer.STATUS:
                status.on_tick(self._s)
            case _:
                assert_never(timer)

    def _proceed(self) -> list[Effect]:
        """Takes every step that has become possible; costs next to nothing if none has."""
        s = self._s
        if s.halted:
            return s.out
        view_change.continue_new_view(s)
        normal.proceed(s)
        if s.view.suspected and s.view.active and s.voting:
            view_change.start(s, s.view.number + 1)
        transfer.step(s)
        progress.watch_work(s)
        return s.out

    def message_filter(self) -> MessageFilter:
        """For messages that the host verifies together: finds those that it need not verify."""
        return MessageFilter(self._s)

    # The host may read these, and never change them.

    @property
    def membership(self) -> Membership:
        """The membership of the current epoch."""
        return self._s.membership

    @property
    def epoch(self) -> int:
        return self._s.epoch

    @property
    def view(self) -> int:
        return self._s.view.number

    @property
    def active(self) -> bool:
        """False from sending a VIEW-CHANGE until its NEW-VIEW is accepted."""
        return self._s.view.active

    @property
    def view_timeout_us(self) -> int:
        """The current one: it adapts to the speed of the replicas."""
        return self._s.timeout.us

    @property
    def primary(self) -> int:
        """The primary of `view`."""
        return self._s.view.primary

    @property
    def executed(self) -> int:
        """Height of the last block that the host reported as executed or installed."""
        return self._s.executed

    @property
    def stable(self) -> int:
        """Sequence number of the highest proven checkpoint (may be above `executed`)."""
        return self._s.stable.seq

    @property
    def log(self) -> Log:
        """How far each sequence number between the watermarks has come."""
        return self._s.log

    @property
    def halted(self) -> bool:
        """A quorum certified a chain that is not ours: this replica has stopped for good."""
        return self._s.halted
