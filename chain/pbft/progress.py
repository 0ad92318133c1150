"""Is the primary alive? The backup's view timer, and the primary's heartbeat (OSDI'99, 4.4).

While a view is active, its timer watches the oldest of these: a waiting request, an accepted block,
or, on an idle chain, the next heartbeat. If it is not executed when the timer fires, the primary is
suspected. Otherwise the timer watches the next oldest. Under load the timer is set once per block,
not per message or request.

A request is timed from its arrival (or from the start of the view), even if it became the oldest
later. It may wait longer only while the primary fills its batches. So a primary that stays just
under the timeout (Aardvark, NSDI'09) must deliver at least one full batch per timeout, or it is
replaced. Full batches give it only a limited time: no more requests can wait before one than a
primary's queue and pipeline hold.
"""

from __future__ import annotations

from chain.pbft import normal
from chain.pbft.effects import CancelTimer, SetTimer, Timer
from chain.pbft.pool import WAITING_MAX
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import Screening
from chain.pbft.view_state import BlockWatch, RequestWatch

__all__ = ["entered", "full_batch", "has_timed_out", "heartbeat", "watch_work"]


def entered(s: ReplicaState) -> None:
    """A view has become active (or the replica has started in one): timers start again."""
    s.view.watch = None
    s.view.timed_from_us = s.now_us
    if s.is_primary and s.voting:
        s.out.append(CancelTimer(Timer.VIEW))
        s.out.append(SetTimer(Timer.HEARTBEAT, s.consensus.heartbeat_us))
    else:
        s.out.append(CancelTimer(Timer.HEARTBEAT))
        _arm(s)


def full_batch(s: ReplicaState, requests: int) -> None:
    """A full batch was executed: the primary does what it can."""
    s.view.timed_from_us = s.now_us
    s.view.overtaken += requests


def watch_work(s: ReplicaState) -> None:
    """Called after every input: when there is work, an idle or outdated watch gives way."""
    work = bool(s.pool.fresh) or s.view.next_seq > s.executed + 1
    s.timeout.working(work, s.now_us)
    if not work:
        return
    if s.view.active and s.view.primary != s.me and s.voting and not _is_watching(s):
        _arm(s)


def _is_watching(s: ReplicaState) -> bool:
    match s.view.watch:
        case None:
            return False
        case BlockWatch(seq=seq, idle=idle):
            return not idle and s.executed < seq
        case RequestWatch(request=request):
            return request in s.pool.fresh or request in s.pool.proposed


def _arm(s: ReplicaState) -> None:
    if not s.voting:
        return
    view = s.view
    oldest = s.pool.oldest()
    delay_us = s.timeout.us
    if oldest is not None:
        view.watch = RequestWatch(oldest.request.id)
        if view.oldest != oldest.request.id:
            view.oldest, view.overtaken = oldest.request.id, 0
        waited_us = s.now_us - max(oldest.since_us, view.timed_from_us)
        delay_us = min(max(delay_us - waited_us, 0), delay_us)
    else:
        idle = view.next_seq <= s.executed + 1
        view.watch = BlockWatch(s.executed + 1, idle)
        delay_us += s.consensus.heartbeat_us if idle else 0
    s.out.append(SetTimer(Timer.VIEW, delay_us))


def has_timed_out(s: ReplicaState) -> bool:
    """Called when the timer of an active view fires: whether what it watches is still missing. If
    not, it watches the next."""
    missing = _is_missing(s)
    s.view.watch = None
    if not missing:
        _arm(s)
    return missing


def _is_missing(s: ReplicaState) -> bool:
    match s.view.watch:
        case RequestWatch(request=request):
            return _is_overdue(s, request)
        case BlockWatch(seq=seq):
            return s.executed < seq
        case None:
            return False


def _is_overdue(s: ReplicaState, request: bytes) -> bool:
    entry = s.pool.fresh.get(request)
    if entry is None and request not in s.pool.proposed:
        return False
    if entry is not None and s.state_machine.screen(entry.request) is not Screening.READY:
        s.pool.drop(request)  # overtaken by another request of its client
        return False
    pipeline = s.consensus.pipeline_window * s.consensus.batch_requests_max
    if s.view.overtaken > WAITING_MAX + pipeline:
        return True  # a primary that takes requests in order would have taken this one by now
    timed_from_us = s.view.timed_from_us
    since_us = timed_from_us if entry is None else max(entry.since_us, timed_from_us)
    return not 0 <= s.now_us - since_us < s.timeout.us


def heartbeat(s: ReplicaState) -> None:
    """An idle chain seals an empty block, so that heads stay fresh and silence means trouble."""
    if not s.is_primary or not s.voting:
        return
    waited_us = s.now_us - s.view.proposed_us
    if 0 <= waited_us < s.consensus.heartbeat_us:
        s.out.append(SetTimer(Timer.HEARTBEAT, s.consensus.heartbeat_us - waited_us))
        return
    if s.view.next_seq == s.executed + 1 and normal.may_propose(s):
        normal.propose(s, [])
    s.out.append(SetTimer(Timer.HEARTBEAT, s.consensus.heartbeat_us))
