"""The inputs of a replica. `Replica.handle(input, now_us)` handles each."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from chain.genesis import Membership
from chain.pbft.effects import Timer
from chain.pbft.messages import (
    Checkpoint,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    ViewChange,
)
from chain.pbft.state_machine import VerifiedRequest

__all__ = [
    "Executed",
    "Input",
    "InstallFailed",
    "Installed",
    "Received",
    "Submitted",
    "TimerFired",
]

M_co = TypeVar("M_co", bound=ReplicaMessage, covariant=True)


class Received(msgspec.Struct, Generic[M_co], frozen=True):
    """A replica message with valid signatures, nested ones too (`chain.pbft.verify` made it). Only
    a COMMIT that came from its sender itself may have an invalid one: `ReplicaState.holds` tells.

    | of | fields |
    |---|---|
    | PRE-PREPARE, BATCH | `proposal`, `requests`: the attached batch |
    | FORWARD | `requests`: its one request |
    | VIEW-CHANGE | `prepared`: the PRE-PREPARE of each prepared certificate |
    | NEW-VIEW | `view_changes`: V; `pre_prepares`: O |
    | HEADS | `checkpoints`: its proof |
    """

    message: M_co
    signed: Signed
    proposal: Proposal | None = None
    requests: tuple[VerifiedRequest, ...] = ()
    prepared: tuple[PrePrepare, ...] = ()
    view_changes: tuple[Received[ViewChange], ...] = ()
    pre_prepares: tuple[PrePrepare, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()


class Submitted(msgspec.Struct, frozen=True, gc=False):
    """A request from a client of ours (or one that the authentication group has endorsed)."""

    request: VerifiedRequest


class TimerFired(msgspec.Struct, frozen=True):
    timer: Timer


class Executed(msgspec.Struct, frozen=True):
    """The answer to `Execute`: the block at `seq` exists and `head` is its hash."""

    seq: int
    head: bytes
    time_us: int
    membership: Membership | None = None  # the next epoch's, if this block changes it


class Installed(msgspec.Struct, frozen=True):
    """The answer to `Install`: the ledger now stands at `seq`."""

    seq: int
    head: bytes
    time_us: int
    membership: Membership | None = None


class InstallFailed(msgspec.Struct, frozen=True):
    """The answer to `Install`: a block did not link, or did not execute to its own head."""

    source: int
    seq: int
    reason: str


Input = Received[ReplicaMessage] | Submitted | TimerFired | Executed | Installed | InstallFailed
