"""Is the primary alive? What a backup waits for, and the primary's heartbeat (OSDI'99, 4.4).

One timer, "view". While a view is active it watches one thing, the oldest: a request that waits,
a block that was accepted, or on an idle chain the next heartbeat. If the watched thing is still
undone when the timer fires, the primary is suspected; else the next oldest is watched. Under load
the timer is touched once per block, not per message or request.

A request is timed from its arrival (or from the view's), not from when it became the oldest, and
may wait for longer only while the primary fills its batches: a primary just under the timeout
(Aardvark, NSDI'09) delivers at least one full batch per timeout, or is replaced. Not for as long as
it likes: no more requests can wait before one than a primary's queue and pipeline hold.
"""

from __future__ import annotations

from chain.pbft import normal, view_timeout
from chain.pbft.effects import CancelTimer, SetTimer, Timer
from chain.pbft.pool import WAITING_MAX
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import Screening

__all__ = ["entered", "heartbeat", "undone", "watch_work"]


def entered(s: ReplicaState) -> None:
    """A view has become active (or the replica has started in one): timers from the beginning."""
    s.watch = None
    s.timed_from_us = s.now_us
    s.oldest = b""
    if s.is_primary and s.voting:
        s.out.append(CancelTimer(Timer.VIEW))
        s.out.append(SetTimer(Timer.HEARTBEAT, s.consensus.heartbeat_us))
    else:
        s.out.append(CancelTimer(Timer.HEARTBEAT))
        _arm(s)


def watch_work(s: ReplicaState) -> None:
    """Called after every input: when there is work, an idle or outdated watch gives way."""
    work = bool(s.pool.fresh) or s.next_seq > s.executed + 1
    view_timeout.working(s, work=work)
    if not work:
        return
    if s.active and s.primary != s.me and s.voting and not _still_watched(s):
        _arm(s)


def _still_watched(s: ReplicaState) -> bool:
    if s.watch is None or s.watch[0] == "idle":
        return False
    what = s.watch[1]
    if isinstance(what, int):
        return s.executed < what
    return what in s.pool.fresh or what in s.pool.proposed


def _arm(s: ReplicaState) -> None:
    if not s.voting:
        return
    oldest = s.pool.oldest()
    delay_us = s.timeout_us
    if oldest is not None:
        s.watch = ("request", oldest.request.id)
        if s.oldest != oldest.request.id:
            s.oldest, s.overtaken = oldest.request.id, 0
        waited_us = s.now_us - max(oldest.since_us, s.timed_from_us)
        delay_us = min(max(delay_us - waited_us, 0), delay_us)
    elif s.next_seq > s.executed + 1:
        s.watch = ("block", s.executed + 1)
    else:
        s.watch = ("idle", s.executed)
        delay_us += s.consensus.heartbeat_us
    s.out.append(SetTimer(Timer.VIEW, delay_us))


def undone(s: ReplicaState) -> str:
    """The timer of an active view has fired: why the primary is suspected, or empty.

    If it is not, the next thing is watched.
    """
    watch, s.watch = s.watch, None
    if watch is not None and _is_undone(s, watch):
        return f"{watch[0]}-timeout"
    _arm(s)
    return ""


def _is_undone(s: ReplicaState, watch: tuple[str, bytes | int]) -> bool:
    kind, what = watch
    if kind != "request":
        assert isinstance(what, int)
        return s.executed < what if kind == "block" else s.executed <= what
    assert isinstance(what, bytes)
    entry = s.pool.fresh.get(what)
    if entry is None and what not in s.pool.proposed:
        return False
    if entry is not None and s.state_machine.screen(entry.request) is not Screening.READY:
        s.pool.drop(what)  # overtaken by another request of its client
        return False
    pipeline = s.consensus.pipeline_window * s.consensus.batch_requests_max
    if s.overtaken > WAITING_MAX + pipeline:
        return True  # whoever takes them in order has come to it: this one is left out
    since_us = s.timed_from_us if entry is None else max(entry.since_us, s.timed_from_us)
    return not 0 <= s.now_us - since_us < s.timeout_us


def heartbeat(s: ReplicaState) -> None:
    """An idle chain seals an empty block, so that heads stay fresh and silence means trouble."""
    if not s.is_primary or not s.voting:
        return
    waited_us = s.now_us - s.proposed_us
    if 0 <= waited_us < s.consensus.heartbeat_us:
        s.out.append(SetTimer(Timer.HEARTBEAT, s.consensus.heartbeat_us - waited_us))
        return
    if s.next_seq == s.executed + 1 and normal.may_propose(s):
        normal.propose(s, [])
    s.out.append(SetTimer(Timer.HEARTBEAT, s.consensus.heartbeat_us))
