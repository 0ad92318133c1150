"""The effects that a replica asks for. The driver carries them out in order."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, final

import msgspec

from chain.block import Block
from chain.pbft.messages import Proposal, Signed
from chain.pbft.state_machine import VerifiedRequest

__all__ = [
    "Accuse",
    "Broadcast",
    "CancelTimer",
    "Durable",
    "Effect",
    "Execute",
    "FactKind",
    "Forget",
    "Install",
    "Observation",
    "Observe",
    "Persist",
    "Refusal",
    "Refuse",
    "Send",
    "SendBatch",
    "ServeBodies",
    "ServeHeads",
    "SetTimer",
    "Sync",
    "Timer",
]

# Kinds of durable facts.
# "proposal": an accepted or own PRE-PREPARE, with its batch: our PREPARE.
# "prepared": a prepared certificate: our COMMIT.
# "view": a `ViewFact`, the view entered or asked for. View 0, sequence 0: there is only one.
# "stable": an encoded `messages.CheckpointProof` of checkpoint `seq`; a host puts it into HEADS.
FactKind = Literal["proposal", "prepared", "view", "stable"]

# Why a submitted request does not wait here.
# "busy": a queue is full; try again later or elsewhere.
# "done": it is executed already.
# "refused": the state machine will never take it.
Refusal = Literal["busy", "done", "refused"]

# Facts for people and for timing. "contradicted": a NEW-VIEW leaves out or changes what a quorum
# has committed; it is refused. "diverged": a quorum has another state at this sequence number, and
# this replica has stopped for good.
Observation = Literal[
    "proposed",
    "pre-prepared",
    "prepared",
    "committed",
    "view-change",
    "view",
    "checkpoint",
    "epoch",
    "fetching",
    "caught-up",
    "contradicted",
    "diverged",
]


class Timer(StrEnum):
    """The timers of a replica. A host may use the value as the name of its own timer."""

    VIEW = "view"
    HEARTBEAT = "heartbeat"
    STATUS = "status"


class Durable(msgspec.Struct, frozen=True, array_like=True):
    """One durable fact. The key is (kind, view, seq): a later fact with the same key replaces it.

    `data` is opaque to the store, except for kind "stable".
    """

    kind: FactKind
    view: int
    seq: int
    data: bytes


@final
class Persist(msgspec.Struct, frozen=True):
    """Write this fact. It is durable by the next `Sync`. After a crash before that, a prefix of
    the writes is left."""

    fact: Durable


@final
class Sync(msgspec.Struct, frozen=True):
    """Every fact and block so far is durable before any later Send or Broadcast leaves."""


class Forget(msgspec.Struct, frozen=True):
    """Facts of kind "proposal" and "prepared" with a sequence number up to `seq` may go."""

    seq: int


class Send(msgspec.Struct, frozen=True):
    to: int
    signed: Signed


@final
class Broadcast(msgspec.Struct, frozen=True):
    """Send to every other member of the current epoch, and to one that is being added."""

    signed: Signed


class SetTimer(msgspec.Struct, frozen=True):
    """Arms this timer, or arms it again."""

    timer: Timer
    delay_us: int


class CancelTimer(msgspec.Struct, frozen=True):
    timer: Timer


class Execute(msgspec.Struct, frozen=True):
    """Final: execute as block `proposal.seq`; answered by `Executed`. One at a time.

    `requests` are the verified requests of `proposal.items`, in the same order. One that lost a
    race (its client was revoked by an earlier block of the pipeline, say) may be among them:
    execution decides, deterministically. The block's time is
    max(proposal.time_us, parent time + 1): a null request has time 0, and a NEW-VIEW may order
    batches of different views whose times do not rise.
    """

    proposal: Proposal
    requests: tuple[VerifiedRequest, ...]
    epoch: int


class Install(msgspec.Struct, frozen=True):
    """Append blocks fetched from `source`; their heads are proven, their bodies are not.

    Answered by `Installed`; if one does not fit, by `Installed` for those before it (unless it is
    the first) and then `InstallFailed`. Never sent while an `Execute` is unanswered.
    """

    blocks: tuple[Block, ...]
    source: int


class SendBatch(msgspec.Struct, frozen=True):
    """Send the batch that is attached to the durable "proposal" of `view` and `seq`: attached to
    `pre_prepare`, or as a BATCH if that is None. Send nothing if the fact is not there."""

    to: int
    view: int
    seq: int
    pre_prepare: Signed | None


class ServeHeads(msgspec.Struct, frozen=True):
    """Answer a FETCH-HEADS from the store: heads from `start` up to the first stored stable
    checkpoint at or above it, with that checkpoint's proof; nothing if there is none."""

    to: int
    start: int


class ServeBodies(msgspec.Struct, frozen=True):
    """Answer a FETCH-BODIES: blocks `start`..`stop` (inclusive), fewer if they exceed about 1 MB,
    but at least one."""

    to: int
    start: int
    stop: int


class Accuse(msgspec.Struct, frozen=True):
    """`culprit` signed `first` and `second`, which is an equivocation. Or `first` alone breaks the
    protocol, and `second` is None."""

    culprit: int
    reason: str
    first: Signed
    second: Signed | None = None


class Refuse(msgspec.Struct, frozen=True):
    """A submitted request does not wait here: tell its submitter."""

    request: bytes
    reason: Refusal


@final
class Observe(msgspec.Struct, frozen=True):
    """Has no influence on the protocol."""

    what: Observation
    view: int
    seq: int


Effect = (
    Persist
    | Sync
    | Forget
    | Send
    | SendBatch
    | Broadcast
    | SetTimer
    | CancelTimer
    | Execute
    | Install
    | ServeHeads
    | ServeBodies
    | Accuse
    | Refuse
    | Observe
)
