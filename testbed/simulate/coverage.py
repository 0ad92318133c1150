"""Which states of the protocol a run has reached.

A state has four parts: the kind of a message; the receiver's role in its view; whether the message
is of an older, the same or a later view; and the progress of its sequence number. A sweep prints
how many states it has seen, and when the last new one came. This shows when a strategy finds
nothing new.
"""

from __future__ import annotations

from chain.errors import PeerFault
from chain.pbft.log import Slot
from chain.pbft.messages import decode_body, decode_signed
from chain.pbft.replica import Replica

__all__ = ["state_of"]


def state_of(core: Replica, me: int, frame: bytes) -> str:
    """The state; empty for a message that no honest replica would send."""
    try:
        message = decode_body(decode_signed(frame).body)
    except PeerFault:
        return ""
    part = "primary" if core.primary == me else "backup"
    words = [type(message).__name__, part if core.active else "pending"]
    view, seq = getattr(message, "view", None), getattr(message, "seq", None)
    if view is not None:
        words.append("older" if view < core.view else "same" if view == core.view else "later")
    if seq is not None:
        words.append(_progress(core, seq))
    return " ".join(words)


def _progress(core: Replica, seq: int) -> str:
    if seq <= core.stable:
        return "stable"
    if seq <= core.executed:
        return "executed"
    slot = core.log.get(seq)
    return "unknown" if slot is None else _phase(slot)


def _phase(slot: Slot) -> str:
    if slot.committed is not None:
        return "committed"
    if slot.prepared is not None:
        return "prepared"
    if slot.accepted is not None:
        return "accepted"
    if slot.ordered is not None:
        return "ordered"
    return "offered" if slot.offer is not None else "voted"
