"""The tricks: each is one function from an honest send to the sends that replace it.

The simple tricks are here. Tricks that forge the contents of messages are in `forgeries`.
`misbehaviour` makes the wrapper that plays a trick.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from chain.genesis import Membership
from chain.keys import Signer, digest
from chain.pbft.effects import Broadcast, Effect, Send
from chain.pbft.messages import (
    Bodies,
    Checkpoint,
    Commit,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    decode_body,
)
from nodes.byzantine.config import Byzantine, Trick
from nodes.byzantine.conspiracy import Conspiracy, twin_of
from nodes.byzantine.forgeries import FORGERIES, to_half
from nodes.byzantine.wrapper import Act, Acted, Misbehaviour, Sent, resigned
from nodes.replica.driver import Delayed

__all__ = ["ACTS", "misbehaviour"]

_FLOOD_COPIES = 20  # of each message
_LATE_LIES = 4  # beside each message


def _silent(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Sends nothing, or nothing of one kind."""
    return []


def _delay(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Sends late: a primary just under the timeout (Aardvark, NSDI'09)."""
    return [Delayed(effect, actor.delay_us)]


def _withhold(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Takes part in everything except voting."""
    return [] if isinstance(message, Prepare | Commit | Checkpoint) else [effect]


def _bad_signature(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Flips a bit of each signature."""
    signature = bytearray(effect.signed.signature)
    signature[actor.rng.randrange(len(signature))] ^= 1 << actor.rng.randrange(8)
    return [resigned(effect, msgspec.structs.replace(effect.signed, signature=bytes(signature)))]


def _wrong_digest(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Votes, properly signed, for something that nobody proposed."""
    lie = _vote_for_nothing(actor, message)
    return [effect if lie is None else resigned(effect, lie)]


def _vote_for_nothing(actor: Misbehaviour, message: ReplicaMessage) -> Signed | None:
    match message:
        case Prepare() | Commit():
            return actor.sign(msgspec.structs.replace(message, digest=digest(message.digest)))
        case Checkpoint():
            return actor.sign(msgspec.structs.replace(message, head=digest(message.head)))
        case _:
            return None


def _equivocate(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Sends each half of the others another story: conflicting proposals as the primary,
    conflicting votes as a backup."""
    if not isinstance(effect, Broadcast):
        return [effect]
    match message:
        case PrePrepare():
            lie = _twin_proposal(actor, effect.signed, message)
        case Prepare() | Commit():
            lie = _vote_for_nothing(actor, message)
        case _:
            lie = None
    return [effect] if lie is None else to_half(actor, effect, [effect.signed], [lie])


def _twin_proposal(actor: Misbehaviour, signed: Signed, message: PrePrepare) -> Signed | None:
    twin = twin_of(signed.attachment) if signed.attachment else None
    if twin is None:
        return None
    return actor.sign(msgspec.structs.replace(message, digest=Proposal.digest_of(twin)), twin)


def _conspire(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Sends one batch to some, another to the deceived, and votes for both."""
    lie: Signed | None = None
    if not isinstance(effect, Broadcast):
        return [effect]
    if isinstance(message, PrePrepare):
        lie = _twin_proposal(actor, effect.signed, message)
    elif isinstance(message, Prepare | Commit):
        twin = actor.conspiracy.twin_digest(message.digest)
        if twin is not None:
            lie = actor.sign(msgspec.structs.replace(message, digest=twin))
    if lie is None:
        return [effect]
    deceived = actor.conspiracy.deceived
    return [Send(to, lie if to in deceived else effect.signed) for to in actor.others()]


def _old_messages(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Repeats, beside each message, one that it sent long ago."""
    return [effect, Broadcast(actor.rng.choice(actor.old))] if actor.old else [effect]


def _dribble(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Serves blocks one at a time, and late: just before another source would be asked."""
    if not isinstance(message, Bodies) or not message.blocks:
        return [effect]
    one = actor.sign(msgspec.structs.replace(message, blocks=message.blocks[:1]))
    return [Delayed(resigned(effect, one), actor.delay_us)]


def _late_equivocation(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Honest until its first epoch is over. Then it sends beside each message votes that contradict
    its own of past epochs, for replicas that are still there, and a vote dated one epoch back."""
    if message.epoch == 0:
        return [effect]
    over = [old for old in actor.old if decode_body(old.body).epoch < message.epoch]
    contradicted = actor.rng.sample(over, min(len(over), _LATE_LIES))
    lies = [_contradiction(actor, signed) for signed in contradicted]
    lies.append(_vote_for_nothing(actor, msgspec.structs.replace(message, epoch=message.epoch - 1)))
    return [effect, *(Broadcast(lie) for lie in lies if lie is not None)]


def _contradiction(actor: Misbehaviour, signed: Signed) -> Signed | None:
    message = decode_body(signed.body)
    if isinstance(message, PrePrepare):
        return _twin_proposal(actor, signed, message)
    return _vote_for_nothing(actor, message)


def _flood(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Sends everything many times. Half of it is garbage that costs a verification."""
    out: list[Effect | Delayed] = []
    for _ in range(_FLOOD_COPIES // 2):
        out.append(effect)
        out += _bad_signature(actor, effect, message)
    return [*out, effect]


ACTS: dict[Trick, Act] = {
    Trick.SILENT: _silent,
    Trick.DELAY: _delay,
    Trick.WITHHOLD: _withhold,
    Trick.BAD_SIGNATURE: _bad_signature,
    Trick.WRONG_DIGEST: _wrong_digest,
    Trick.EQUIVOCATE: _equivocate,
    Trick.OLD_MESSAGES: _old_messages,
    Trick.FLOOD: _flood,
    Trick.DRIBBLE: _dribble,
    Trick.LATE_EQUIVOCATION: _late_equivocation,
    Trick.CONSPIRE: _conspire,
    **FORGERIES,
}


def misbehaviour(
    wanted: Byzantine,
    *,
    me: int,
    network: bytes,
    signer: Signer,
    membership: Callable[[], Membership],
    active: Callable[[], bool] = lambda: True,
) -> Misbehaviour:
    """The wrapper that a config or an order asks for."""
    return Misbehaviour(
        ACTS[wanted.trick],
        me=me,
        network=network,
        signer=signer,
        membership=membership,
        rng=random.Random(wanted.seed),  # noqa: S311 - repeatable on purpose
        message=wanted.message,
        delay_us=wanted.delay_ms * 1000,
        probability=wanted.probability,
        client=bytes.fromhex(wanted.client) if wanted.client else None,
        conspiracy=Conspiracy(frozenset(wanted.accomplices), frozenset(wanted.deceived)),
        active=active,
    )
