"""Tricks that forge the contents of messages: batches, view changes, checkpoints, state transfer.

Everything is signed with the replica's real key: the protocol must refuse it, not the signature
check. The simple tricks are in `tricks`. False seals, for gateways, are no trick of the wrapper.
"""

from __future__ import annotations

import msgspec

from chain.block import Block, Head
from chain.keys import Signer, digest
from chain.ledger.envelope import read_operation
from chain.ledger.item import cose_of, make_item
from chain.pbft.effects import Effect, Send
from chain.pbft.messages import (
    Bodies,
    Checkpoint,
    Commit,
    Heads,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Seal,
    Signed,
    StatusMessage,
    ViewChange,
    decode_body,
    decode_client,
    decode_proposal,
    encode,
)
from nodes.byzantine.config import Trick
from nodes.byzantine.wrapper import Act, Acted, Misbehaviour, Sent, resigned

__all__ = ["FORGERIES", "false_seal", "to_half"]

_LIE = digest(b"a lie")
_SPAM_VOTES = 8
_SPAM_VIEWS = 20
_SPAM_SEQS = 200
_FAR_SEQS = 64  # how far ahead a liar claims to be


def to_half(actor: Misbehaviour, effect: Sent, one: list[Signed], other: list[Signed]) -> Acted:
    """`one` to the first half of the others, `other` to the rest."""
    if isinstance(effect, Send):
        return [Send(effect.to, signed) for signed in one]
    others = actor.others()
    half = len(others) // 2
    return [
        *(Send(to, signed) for to in others[:half] for signed in one),
        *(Send(to, signed) for to in others[half:] for signed in other),
    ]


def _partial(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Its votes, checkpoints and view changes reach only half of the others."""
    votes = PrePrepare | Prepare | Commit | Checkpoint | ViewChange | NewView
    if not isinstance(message, votes):
        return [effect]
    return to_half(actor, effect, [effect.signed], [])


def _reproposal(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Half of the others get the same batch under the next number too. If the digest did not bind
    the number to the content, the batch would be executed twice (ByzzFuzz found that in a PBFT)."""
    if not isinstance(message, PrePrepare):
        return [effect]
    shifted = actor.sign(
        msgspec.structs.replace(message, seq=message.seq + 1), effect.signed.attachment
    )
    return to_half(actor, effect, [effect.signed], [shifted, effect.signed])


def _bad_batch(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Every other proposal is unacceptable: a request twice, an unsigned one, one that its group
    never endorsed, another number inside, a wrong time, or, for half of the others, a batch with
    another digest."""
    attachment = effect.signed.attachment
    if not isinstance(message, PrePrepare) or not attachment or actor.rng.random() < 0.5:
        return [effect]
    proposal = decode_proposal(attachment)
    match actor.rng.randrange(6):
        case 0:
            proposal = msgspec.structs.replace(proposal, items=proposal.items * 2)
        case 1:
            broken = tuple(item[:-1] + bytes((item[-1] ^ 1,)) for item in proposal.items)
            proposal = msgspec.structs.replace(proposal, items=broken)
        case 2:
            bare = tuple(make_item(cose_of(item)) for item in proposal.items)
            proposal = msgspec.structs.replace(proposal, items=bare)
        case 3:
            proposal = msgspec.structs.replace(proposal, seq=proposal.seq + 1)
        case 4:
            off_us = actor.rng.choice((-3_600_000_000, -5_000_000, 5_000_000, 3_600_000_000))
            proposal = msgspec.structs.replace(proposal, time_us=proposal.time_us + off_us)
        case _:
            other = msgspec.structs.replace(proposal, time_us=proposal.time_us + 1).encode()
            return to_half(actor, effect, [effect.signed], [actor.sign(message, other)])
    encoded = proposal.encode()
    changed = msgspec.structs.replace(message, digest=Proposal.digest_of(encoded))
    return [resigned(effect, actor.sign(changed, encoded))]


def _censor(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """As primary it leaves out the requests of one client, or all: clients wait."""
    if not isinstance(message, PrePrepare) or not effect.signed.attachment:
        return [effect]
    proposal = decode_proposal(effect.signed.attachment)
    passed = tuple(item for item in proposal.items if not _censored(actor, item))
    if passed == proposal.items:
        return [effect]
    encoded = msgspec.structs.replace(proposal, items=passed).encode()
    changed = msgspec.structs.replace(message, digest=Proposal.digest_of(encoded))
    return [resigned(effect, actor.sign(changed, encoded))]


def _censored(actor: Misbehaviour, item: bytes) -> bool:
    if actor.client is None:
        return True
    return read_operation(cose_of(item), actor.network).operation.node == actor.client


def _wrong_field(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Changes a field of every fifth message and signs it again."""
    if actor.rng.random() < 0.8:
        return [effect]
    field = actor.rng.choice(message.__struct_fields__)
    value = getattr(message, field)
    changed: object
    match value:
        case bool():
            changed = not value
        case int():
            changed = max(0, value + actor.rng.choice((-1, 1, 1, 64)))
        case bytes() if len(value) == len(_LIE):
            changed = actor.rng.choice((_LIE, bytes(32)))
        case tuple():
            changed = actor.rng.choice((value[1:], value * 2, value[::-1]))
        case _:
            return [effect]
    mutated = msgspec.structs.replace(message, **{field: changed})
    return [resigned(effect, actor.sign(mutated, effect.signed.attachment))]


def _forge_new_view(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """A NEW-VIEW that omits, adds or changes what the VIEW-CHANGEs prove."""
    if not isinstance(message, NewView):
        return [effect]
    ordered = message.pre_prepares
    match actor.rng.randrange(5):
        case 0:
            changed = msgspec.structs.replace(message, pre_prepares=ordered[:-1])
        case 1:
            changed = msgspec.structs.replace(message, pre_prepares=())
        case 2:
            nulls = tuple(_null(actor, signed) for signed in ordered)
            changed = msgspec.structs.replace(message, pre_prepares=nulls)
        case 3:
            changed = msgspec.structs.replace(message, pre_prepares=ordered + ordered[-1:])
        case _:
            changed = msgspec.structs.replace(message, view_changes=message.view_changes[1:])
    return [resigned(effect, actor.sign(changed))]


def _null(actor: Misbehaviour, signed: Signed) -> Signed:
    original = decode_body(signed.body)
    assert isinstance(original, PrePrepare)
    empty = Proposal.digest_of(Proposal.null(original.seq).encode())
    return actor.sign(msgspec.structs.replace(original, digest=empty))


def _forge_view_change(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """A VIEW-CHANGE that hides certificates, invents a checkpoint or asks for a far view."""
    if not isinstance(message, ViewChange):
        return [effect]
    match actor.rng.randrange(5):
        case 0:
            changed = msgspec.structs.replace(message, prepared=())
        case 1:
            far = message.stable_seq + _FAR_SEQS
            changed = msgspec.structs.replace(message, stable_seq=far, stable_head=_LIE)
        case 2:
            changed = msgspec.structs.replace(message, stable_proof=message.stable_proof[1:])
        case 3:
            proofs = tuple(
                msgspec.structs.replace(proof, prepares=proof.prepares[1:])
                for proof in message.prepared
            )
            changed = msgspec.structs.replace(message, prepared=proofs)
        case _:
            changed = msgspec.structs.replace(message, view=message.view + 7)
    return [resigned(effect, actor.sign(changed))]


def _forge_checkpoint(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Votes for states that do not exist, and for checkpoints far ahead."""
    if not isinstance(message, Checkpoint):
        return [effect]
    lie = actor.sign(msgspec.structs.replace(message, head=_LIE))
    ahead = actor.sign(msgspec.structs.replace(message, seq=message.seq + _FAR_SEQS))
    return [resigned(effect, lie), resigned(effect, ahead)]


def _lying_transfer(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Pretends to be far ahead and serves heads and bodies that are not the chain's."""
    match message:
        case StatusMessage():
            changed: ReplicaMessage = msgspec.structs.replace(
                message,
                stable_seq=message.stable_seq + _FAR_SEQS,
                executed=message.executed + _FAR_SEQS,
            )
        case Heads() if message.heads:
            last = Head.decode(message.heads[-1])
            fake = msgspec.structs.replace(last, root=_LIE).encode()
            changed = msgspec.structs.replace(message, heads=(*message.heads[:-1], fake))
        case Bodies() if message.blocks:
            emptied = tuple(Block(block.head, ()) for block in message.blocks)
            changed = msgspec.structs.replace(message, blocks=emptied)
        case _:
            return [effect]
    return [resigned(effect, actor.sign(changed))]


def _spam_votes(actor: Misbehaviour, effect: Sent, message: ReplicaMessage) -> Acted:
    """Well-signed votes for numbers and views that nobody asked about."""
    if actor.rng.random() < 0.9:
        return [effect]
    spam: list[Effect] = []
    for _ in range(_SPAM_VOTES):
        kind = actor.rng.choice((Prepare, Commit))
        vote = kind(
            epoch=message.epoch,
            sender=actor.me,
            view=actor.rng.randrange(_SPAM_VIEWS),
            seq=actor.rng.randrange(1, _SPAM_SEQS),
            digest=actor.rng.randbytes(32),
        )
        spam.append(resigned(effect, actor.sign(vote)))
    return [effect, *spam]


def false_seal(frame: bytes, signer: Signer) -> bytes:
    """What a lying replica sends to a gateway: in place of a seal, one of a head with another time,
    correctly signed. Other frames stay."""
    seal = decode_client(frame)
    if not isinstance(seal, Seal):
        return frame
    true = Head.decode(seal.head)
    head = msgspec.structs.replace(true, time_us=true.time_us - 1).encode()
    block = seal.block and Block(head, seal.block.records)
    return encode(
        msgspec.structs.replace(seal, head=head, signature=signer.sign(head), block=block)
    )


FORGERIES: dict[Trick, Act] = {
    Trick.PARTIAL: _partial,
    Trick.REPROPOSAL: _reproposal,
    Trick.BAD_BATCH: _bad_batch,
    Trick.CENSOR: _censor,
    Trick.WRONG_FIELD: _wrong_field,
    Trick.FORGE_NEW_VIEW: _forge_new_view,
    Trick.FORGE_VIEW_CHANGE: _forge_view_change,
    Trick.FORGE_CHECKPOINT: _forge_checkpoint,
    Trick.LYING_TRANSFER: _lying_transfer,
    Trick.SPAM_VOTES: _spam_votes,
}
