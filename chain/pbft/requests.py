"""How requests arrive, are handed to the primary, and wait (OSDI'99, section 4.1).

Bounds are in `pool`; how long a request may wait is in `progress`, batches form in `normal`.
"""

from __future__ import annotations

from itertools import islice

from chain.pbft.effects import Refusal, Refuse
from chain.pbft.inputs import Received, Submitted
from chain.pbft.log import Slot
from chain.pbft.messages import Forward
from chain.pbft.pool import OWN_CLIENTS
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import Screening, VerifiedRequest

__all__ = [
    "FORWARDS_MAX",
    "forward_waiting",
    "on_forward",
    "on_submitted",
    "rescreen_fresh",
    "rescreen_later",
    "withdraw",
]

# A backup hands only its oldest requests to the primary; the others follow when these leave. The
# timer watches the oldest. Each forwarded request costs the primary a signature check, from every
# backup, when it is busiest.
FORWARDS_MAX = 32


def on_submitted(s: ReplicaState, item: Submitted) -> None:
    """A backup hands it to the primary and times its execution (4.1, `progress`)."""
    request = item.request
    if s.pool.knows(request.id):
        return
    reason = _admit(s, request, OWN_CLIENTS)
    if reason is not None:
        s.out.append(Refuse(request.id, reason))
    elif len(s.pool.fresh) <= FORWARDS_MAX:
        _hand_over(s, request)


def _hand_over(s: ReplicaState, request: VerifiedRequest) -> None:
    """Hands it to the primary. A replica that asks for a view, perhaps alone, hands it to the
    primary of the view before."""
    number = s.view.number if s.view.active else s.view.number - 1
    primary = s.membership.primary(number)
    if s.voting and primary != s.me:
        s.send(primary, Forward(s.epoch, s.me, request.item))


def on_forward(s: ReplicaState, received: Received[Forward]) -> None:
    if not s.is_primary or s.pool.knows(received.requests[0].id):
        return
    _admit(s, received.requests[0], received.message.sender)


def _admit(s: ReplicaState, request: VerifiedRequest, source: int) -> Refusal | None:
    if len(request.item) > s.consensus.batch_bytes_max:
        return "refused"
    return s.pool.add(request, source, s.state_machine.screen(request), s.now_us)


def rescreen_later(s: ReplicaState) -> None:
    """Called after an execution: requests that referred to something unknown may be ready."""
    for entry in list(s.pool.later.values()):
        verdict = s.state_machine.screen(entry.request)
        if verdict is Screening.LATER:
            continue
        s.pool.drop(entry.request.id)
        if reason := s.pool.add(entry.request, entry.source, verdict, s.now_us):
            if entry.source == OWN_CLIENTS:
                s.out.append(Refuse(entry.request.id, reason))
        else:
            _hand_over(s, entry.request)


def rescreen_fresh(s: ReplicaState) -> None:
    """Called after a state transfer: drops requests that were executed elsewhere."""
    for entry in list(s.pool.fresh.values()):
        if s.state_machine.screen(entry.request) is not Screening.READY:
            s.pool.drop(entry.request.id)


def withdraw(s: ReplicaState, slot: Slot) -> None:
    """Proposals for this number were not executed (a view change, another epoch): their requests
    wait again."""
    for batch in slot.batches.values():
        for request in batch.requests:
            if s.pool.withdraw(request.id, slot.seq) and not s.pool.knows(request.id):
                s.pool.add(request, OWN_CLIENTS, s.state_machine.screen(request), s.now_us)


def forward_waiting(s: ReplicaState, *, new_primary: bool = False) -> None:
    """A backup hands its oldest requests to the primary when a view begins. It does so again with
    the 1st, 2nd, 4th, 8th ... status interval, in case they were lost."""
    for entry in islice(s.pool.fresh.values(), FORWARDS_MAX):
        entry.ticks = 0 if new_primary else entry.ticks + 1
        if entry.ticks & (entry.ticks - 1) == 0:
            _hand_over(s, entry.request)
