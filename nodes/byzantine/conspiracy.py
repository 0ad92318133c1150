"""Replicas that lie together, for `nodes.byzantine.wrapper`'s table of kinds.

The primary among them proposes one batch to some and another to the deceived, and all of them
vote, on each side, for what that side was told. Up to f of them achieve nothing; f+1 fork the
chain, which is how the bound is shown. They need no channel of their own: each derives the second
story from the first.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from chain.pbft.effects import Broadcast, Effect, Send
from chain.pbft.messages import (
    Commit,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    decode_body,
    decode_proposal,
    decode_signed,
)

__all__ = ["Conspiracy", "conspire"]

_TOLD_MAX = 1024  # proposals with a second story; the oldest are forgotten


class Conspiracy:
    """`accomplices` (replica ids, the liar's own included) tell `deceived` another story."""

    def __init__(
        self, accomplices: frozenset[int] = frozenset(), deceived: frozenset[int] = frozenset()
    ) -> None:
        self.accomplices = accomplices
        self.deceived = deceived
        self._told: dict[bytes, bytes] = {}  # digest of a proposal -> of its twin

    def heard(self, stored: bytes) -> None:
        """A proposal, as the core keeps it durably, that was voted for."""
        signed = decode_signed(stored)
        message = decode_body(signed.body)
        if not signed.attachment or not isinstance(message, PrePrepare):
            return  # its batch was seen before
        twin = _twin(signed.attachment)
        if message.sender in self.accomplices and twin is not None:
            self._told[message.digest] = Proposal.digest_of(twin)
            if len(self._told) > _TOLD_MAX:
                del self._told[next(iter(self._told))]

    def told(self, digest: bytes) -> bytes | None:
        """What the deceived were told instead of `digest`."""
        return self._told.get(digest)


class Actor(Protocol):
    """The part of `byzantine.Misbehaviour` that a conspirator uses."""

    conspiracy: Conspiracy

    def sign(self, message: ReplicaMessage, attachment: bytes = b"") -> Signed: ...

    def others(self) -> list[int]: ...


def conspire(actor: Actor, effect: Send | Broadcast, message: ReplicaMessage) -> list[Effect]:
    """One story to some, another to the deceived, and votes for both."""
    if not isinstance(effect, Broadcast):
        return [effect]
    lie = _lie(actor, effect.signed, message)
    if lie is None:
        return [effect]
    deceived = actor.conspiracy.deceived
    return [Send(to, lie if to in deceived else effect.signed) for to in actor.others()]


def _lie(actor: Actor, signed: Signed, message: ReplicaMessage) -> Signed | None:
    if isinstance(message, PrePrepare):
        twin = _twin(signed.attachment) if signed.attachment else None
        if twin is None:
            return None
        digest = Proposal.digest_of(twin)
        return actor.sign(msgspec.structs.replace(message, digest=digest), twin)
    if isinstance(message, Prepare | Commit):
        told = actor.conspiracy.told(message.digest)
        if told is not None:
            return actor.sign(msgspec.structs.replace(message, digest=told))
    return None


def _twin(raw: bytes) -> bytes | None:
    """The same batch a microsecond later; a null request has none."""
    proposal = decode_proposal(raw)
    if proposal.is_null:
        return None
    return msgspec.structs.replace(proposal, time_us=proposal.time_us + 1).encode()
