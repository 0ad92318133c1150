"""What a replica wants done. The driver carries effects out in order."""

from __future__ import annotations

import msgspec

from chain.block import Block
from chain.pbft.application import Request
from chain.pbft.messages import Proposal, Signed

__all__ = [
    "Accuse",
    "Broadcast",
    "CancelTimer",
    "Durable",
    "Effect",
    "Execute",
    "Forget",
    "Install",
    "Observe",
    "Persist",
    "Refuse",
    "Send",
    "SendBatch",
    "ServeBodies",
    "ServeHeads",
    "SetTimer",
    "Sync",
]


class Durable(msgspec.Struct, frozen=True, array_like=True):
    """One durable fact. The key is (kind, view, seq): a later fact with the same key replaces it.

    `kind` is one of "proposal" (an accepted or own PRE-PREPARE with its batch: our PREPARE),
    "prepared" (a prepared certificate: our COMMIT), "view" (the view entered or asked for, with
    the signed message; always view 0, seq 0: there is one), "stable" (the proof of checkpoint
    `seq`; `data` is an encoded `chain.pbft.messages.CheckpointProof`, which a host puts into
    HEADS). Else `data` is opaque to the store.
    """

    kind: str
    view: int
    seq: int
    data: bytes


class Persist(msgspec.Struct, frozen=True):
    """Durable before any later Send or Broadcast leaves."""

    fact: Durable


class Sync(msgspec.Struct, frozen=True):
    """Every block so far is durable before any later Send or Broadcast leaves."""


class Forget(msgspec.Struct, frozen=True):
    """Facts of kind "proposal" and "prepared" with a sequence number up to `seq` may go."""

    seq: int


class Send(msgspec.Struct, frozen=True):
    to: int
    signed: Signed


class Broadcast(msgspec.Struct, frozen=True):
    """To every other member of the current epoch (and to one that is being added)."""

    signed: Signed


class SetTimer(msgspec.Struct, frozen=True):
    """(Re)arms the one timer of this name."""

    name: str
    delay_us: int


class CancelTimer(msgspec.Struct, frozen=True):
    name: str


class Execute(msgspec.Struct, frozen=True):
    """Final: execute as block `proposal.seq`; answered by `Executed`. One at a time.

    `requests` are the verified requests of `proposal.items`, in the same order. One that lost a
    race (its client was revoked by an earlier block of the pipeline, say) may be among them:
    execution decides, deterministically. The block's time is
    max(proposal.time_us, parent time + 1): a null request has time 0, and certificates of
    different views may come together in an order that their times do not have.
    """

    proposal: Proposal
    requests: tuple[Request, ...]
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
    `pre_prepare`, or as a BATCH if that is None. Nothing if the fact is not there."""

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
    """`culprit` signed both (equivocation), or the one that breaks the protocol (`second` None)."""

    culprit: int
    reason: str
    first: Signed
    second: Signed | None = None


class Refuse(msgspec.Struct, frozen=True):
    """A submitted request does not wait here: tell whoever submitted it.

    `reason`: "busy" (a queue is full: try again later or elsewhere), "done" (already executed)
    or "refused" (the application will never take it).
    """

    request: bytes
    reason: str


class Observe(msgspec.Struct, frozen=True):
    """A fact for people and timing, with no influence on the protocol.

    `what`: "proposed", "pre-prepared", "prepared", "committed", "view-change", "view",
    "checkpoint", "epoch", "fetching", "caught-up", "diverged" (a quorum has another state at
    `seq`: this replica has stopped for good).
    """

    what: str
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
