"""What can happen to a replica. Each is handled by `Replica.handle(input, now_us)`."""

from __future__ import annotations

import msgspec

from chain.genesis import Membership
from chain.pbft.effects import Timer
from chain.pbft.messages import (
    Checkpoint,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
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
    "VerifiedProof",
    "VerifiedViewChange",
]


class VerifiedProof(msgspec.Struct, frozen=True):
    """A PreparedProof whose signatures hold; whether its parts match is the core's question."""

    pre_prepare: PrePrepare
    prepares: tuple[Prepare, ...]


class VerifiedViewChange(msgspec.Struct, frozen=True):
    """The messages inside a VIEW-CHANGE, each with a good signature."""

    stable_proof: tuple[Checkpoint, ...]
    prepared: tuple[VerifiedProof, ...]


class Received(msgspec.Struct, frozen=True):
    """A replica message whose signatures, nested ones too, hold (`chain.pbft.verify` made it).

    `proposal` and `requests` belong to a PRE-PREPARE's attachment or a BATCH; `forwarded` to a
    FORWARD; `view_change` to a VIEW-CHANGE; `new_view` holds each VIEW-CHANGE of a NEW-VIEW with
    its contents, and `new_pre_prepares` its O; `checkpoints` the proof in a HEADS.
    """

    message: ReplicaMessage
    signed: Signed
    proposal: Proposal | None = None
    requests: tuple[VerifiedRequest, ...] = ()
    view_change: VerifiedViewChange | None = None
    new_view: tuple[Received, ...] = ()
    new_pre_prepares: tuple[PrePrepare, ...] = ()
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
    membership: Membership | None = None  # if this block changes the membership: the next epoch's


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


Input = Received | Submitted | TimerFired | Executed | Installed | InstallFailed
