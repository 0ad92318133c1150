"""Replicas that misbehave on purpose: one wrapper around the honest core's effects.

The same table serves the simulator, the loopback lab and real boards. `Misbehaviour.rewrite` is
pure but for the random generator that it is given; the host carries out what comes back. A kind
is one small function from an honest effect to what happens instead.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from chain.genesis import Membership
from chain.keys import Signer, digest
from chain.pbft.effects import Broadcast, Durable, Effect, Persist, Send
from chain.pbft.messages import (
    Checkpoint,
    Commit,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    decode_proposal,
    encode,
    signed_bytes,
)
from nodes.byzantine.config import Trick
from nodes.byzantine.conspiracy import Conspiracy, conspire
from nodes.byzantine.forgeries import FORGERIES
from nodes.replica.driver import Delayed

__all__ = ["Misbehaviour"]

_REMEMBERED_MAX = 64  # own old messages, to send again
_FLOOD_COPIES = 20  # of each message

_bodies = msgspec.msgpack.Decoder(ReplicaMessage)


class Misbehaviour:
    """What one faulty replica does. `message` narrows it to messages of one tag (as "PP").

    `active` says whether it misbehaves now; until then it is honest. `client` narrows "censor" to
    one node id, `conspiracy` tells "conspire" who is in it. `acts` counts what it changed.
    """

    def __init__(
        self,
        trick: Trick,
        *,
        me: int,
        network: bytes,
        signer: Signer,
        membership: Callable[[], Membership],
        rng: random.Random,
        message: str | None = None,
        delay_us: int = 0,
        probability: float = 1.0,
        client: bytes | None = None,
        conspiracy: Conspiracy | None = None,
        active: Callable[[], bool] = lambda: True,
    ) -> None:
        self._act = _ACTS[trick]
        self.acts = 0
        self.me = me
        self.network = network
        self.delay_us = delay_us
        self.client = client
        self.conspiracy = conspiracy or Conspiracy()
        self.rng = rng
        self.old: deque[Signed] = deque(maxlen=_REMEMBERED_MAX)
        self._signer = signer
        self._membership = membership
        self._message = message
        self._probability = probability
        self._active = active

    def rewrite(self, effects: list[Effect]) -> list[Effect | Delayed]:
        """What is carried out instead of `effects`."""
        if not self._active():
            return list(effects)
        out: list[Effect | Delayed] = []
        for effect in effects:
            if isinstance(effect, Send | Broadcast):
                out += self._rewritten(effect)
                continue
            if isinstance(effect, Persist):
                self._kept(effect.fact)
            out.append(effect)
        return out

    def _kept(self, fact: Durable) -> None:
        """Which proposals it voted for: conspirators tell the deceived of another."""
        if self._act is conspire and fact.kind == "proposal":
            self.conspiracy.heard(fact.data)

    def _rewritten(self, effect: Send | Broadcast) -> Sequence[Effect | Delayed]:
        message = _bodies.decode(effect.signed.body)
        wanted = self._message in (None, message.__struct_config__.tag)
        if not wanted or self.rng.random() >= self._probability:
            return [effect]
        acted = self._act(self, effect, message)
        self.acts += acted != [effect]
        self.old.append(effect.signed)
        return acted

    def others(self) -> list[int]:
        return [replica for replica in self._membership().ids if replica != self.me]

    def sign(self, message: ReplicaMessage, attachment: bytes = b"") -> Signed:
        body = encode(message)
        return Signed(body, self._signer.sign(signed_bytes(self.network, body)), attachment)


class _Act(Protocol):
    def __call__(
        self, actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
    ) -> Sequence[Effect | Delayed]: ...


def _with(effect: Send | Broadcast, signed: Signed) -> Send | Broadcast:
    return msgspec.structs.replace(effect, signed=signed)


def _silent(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Says nothing at all, or nothing of one kind."""
    return []


def _delay(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Says it late: a primary just under the timeout (Aardvark, NSDI'09)."""
    return [Delayed(effect, actor.delay_us)]


def _withhold(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Takes part in everything but voting."""
    return [] if isinstance(message, Prepare | Commit | Checkpoint) else [effect]


def _bad_signature(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Flips a bit of each signature."""
    signature = bytearray(effect.signed.signature)
    signature[actor.rng.randrange(len(signature))] ^= 1 << actor.rng.randrange(8)
    return [_with(effect, msgspec.structs.replace(effect.signed, signature=bytes(signature)))]


def _wrong_digest(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Votes, properly signed, for something that nobody proposed."""
    if isinstance(message, Prepare | Commit):
        lie = actor.sign(msgspec.structs.replace(message, digest=digest(message.digest)))
    elif isinstance(message, Checkpoint):
        lie = actor.sign(msgspec.structs.replace(message, head=digest(message.head)))
    else:
        return [effect]
    return [_with(effect, lie)]


def _equivocate(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Tells each half of the others another story: conflicting proposals as the primary,
    conflicting votes as a backup."""
    if not isinstance(effect, Broadcast):
        return [effect]
    if isinstance(message, PrePrepare) and effect.signed.attachment:
        proposal = decode_proposal(effect.signed.attachment)
        if proposal.is_null:
            return [effect]
        twin = _twin(proposal)
        lie = actor.sign(
            msgspec.structs.replace(message, digest=Proposal.digest_of(twin)), attachment=twin
        )
    elif isinstance(message, Prepare | Commit):
        lie = actor.sign(msgspec.structs.replace(message, digest=digest(message.digest)))
    else:
        return [effect]
    others = actor.others()
    half = len(others) // 2
    return [
        *(Send(to, effect.signed) for to in others[:half]),
        *(Send(to, lie) for to in others[half:]),
    ]


def _twin(proposal: Proposal) -> bytes:
    """As acceptable as the original, but another: its last request is missing, or its time."""
    if proposal.items:
        return msgspec.structs.replace(proposal, items=proposal.items[:-1]).encode()
    return msgspec.structs.replace(proposal, time_us=proposal.time_us + 1).encode()


def _old_messages(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Repeats, beside each message, one that it sent long ago."""
    if not actor.old:
        return [effect]
    return [effect, Broadcast(actor.rng.choice(actor.old))]


def _flood(
    actor: Misbehaviour, effect: Send | Broadcast, message: ReplicaMessage
) -> list[Effect | Delayed]:
    """Sends everything many times over, half of it garbage that costs a verification."""
    out: list[Effect | Delayed] = []
    for _ in range(_FLOOD_COPIES // 2):
        out.append(effect)
        out += _bad_signature(actor, effect, message)
    return [*out, effect]


_ACTS: dict[Trick, _Act] = {
    Trick.SILENT: _silent,
    Trick.DELAY: _delay,
    Trick.WITHHOLD: _withhold,
    Trick.BAD_SIGNATURE: _bad_signature,
    Trick.WRONG_DIGEST: _wrong_digest,
    Trick.EQUIVOCATE: _equivocate,
    Trick.OLD_MESSAGES: _old_messages,
    Trick.FLOOD: _flood,
    Trick.CONSPIRE: conspire,
    **FORGERIES,
}
