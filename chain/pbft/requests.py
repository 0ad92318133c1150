"""How requests come, are handed to the primary, and wait (OSDI'99, section 4.1).

Bounds are in `pool`; how long a request may wait is in `progress`, batches form in `normal`.
"""

from __future__ import annotations

from chain.messages import Forward
from chain.pbft.application import Request, Screening
from chain.pbft.effects import Refuse
from chain.pbft.inputs import Received, Submitted
from chain.pbft.pool import OWN_CLIENTS
from chain.pbft.state import State

__all__ = [
    "FORWARDS_MAX",
    "forward_waiting",
    "on_forward",
    "on_submitted",
    "rescreen_fresh",
    "rescreen_later",
    "wait_again",
]

FORWARDS_MAX = 256  # waiting requests handed to the primary again, per view or status interval


def on_submitted(s: State, item: Submitted) -> None:
    """A backup hands it to the primary and times its execution (4.1; see `progress`)."""
    request = item.request
    if s.pool.knows(request.id):
        return
    reason = _admit(s, request, OWN_CLIENTS)
    if reason is not None:
        s.out.append(Refuse(request.id, reason))
    elif s.active and s.voting and not s.is_primary:
        s.send(s.primary, Forward(s.epoch, s.me, request.item))


def on_forward(s: State, received: Received) -> None:
    if not s.is_primary or s.pool.knows(received.requests[0].id):
        return
    _admit(s, received.requests[0], received.message.sender)


def _admit(s: State, request: Request, source: int) -> str | None:
    if len(request.item) > s.consensus.batch_bytes_max:
        return "refused"
    return s.pool.add(request, source, s.application.screen(request), s.now_us)


def rescreen_later(s: State) -> None:
    """What was not yet known may be known after an execution."""
    for entry in list(s.pool.later.values()):
        verdict = s.application.screen(entry.request)
        if verdict is Screening.LATER:
            continue
        s.pool.drop(entry.request.id)
        if reason := s.pool.add(entry.request, entry.source, verdict, s.now_us):
            if entry.source == OWN_CLIENTS:
                s.out.append(Refuse(entry.request.id, reason))
        elif s.active and s.voting and not s.is_primary:
            s.send(s.primary, Forward(s.epoch, s.me, entry.request.item))


def rescreen_fresh(s: State) -> None:
    """After a state transfer: what was executed elsewhere waits no more."""
    for entry in list(s.pool.fresh.values()):
        if s.application.screen(entry.request) is not Screening.READY:
            s.pool.drop(entry.request.id)


def wait_again(s: State, seq: int, requests: tuple[Request, ...]) -> None:
    """The proposal of `seq` in which they stood came to nothing (a view change, another epoch)."""
    for request in requests:
        if s.pool.withdraw(request.id, seq) and not s.pool.knows(request.id):
            s.pool.add(request, OWN_CLIENTS, s.application.screen(request), s.now_us)


def forward_waiting(s: State) -> None:
    """A backup hands what waits here to the (new) primary."""
    if not s.active or s.is_primary or not s.voting:
        return
    for entry in list(s.pool.fresh.values())[:FORWARDS_MAX]:
        s.send(s.primary, Forward(s.epoch, s.me, entry.request.item))
