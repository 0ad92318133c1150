"""Checks a stored checkpoint: a quorum must have signed the head that we computed from the
genesis."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from chain.errors import PeerFault
from chain.genesis import Membership
from chain.keys import Scheme
from chain.pbft.messages import Checkpoint, CheckpointProof, Signed, decode_body, signed_bytes

__all__ = ["proof_fault"]

_proofs = msgspec.msgpack.Decoder(CheckpointProof)


def proof_fault(
    data: bytes,
    computed: tuple[int, bytes | None],
    network: bytes,
    memberships: Mapping[int, Membership],
    scheme: Scheme,
) -> str | None:
    """Why `data` does not prove the `computed` height and head hash; None if it does."""
    try:
        proof = _proofs.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    if (proof.seq, proof.head) != computed:
        return "is for another head"
    signers: dict[int, set[int]] = {}
    for vote in proof.votes:
        message = _vote(vote, network, memberships, scheme)
        if isinstance(message, str):
            return message
        if (message.seq, message.head) != computed:
            return f"replica {message.sender} voted for another head"
        signers.setdefault(message.epoch, set()).add(message.sender)
    enough = any(
        len(of_epoch) >= memberships[epoch].quorum.strong for epoch, of_epoch in signers.items()
    )
    return None if enough else "too few votes"


def _vote(
    vote: Signed, network: bytes, memberships: Mapping[int, Membership], scheme: Scheme
) -> Checkpoint | str:
    """The CHECKPOINT, or what is wrong with it."""
    try:
        message = decode_body(vote.body)
    except PeerFault as fault:
        return str(fault)
    if not isinstance(message, Checkpoint):
        return "holds another kind of message"
    membership = memberships.get(message.epoch)
    key = membership.spki(message.sender) if membership else None
    if key is None:
        return f"holds a vote of a stranger, {message.sender}"
    if not scheme.verify(key, signed_bytes(network, vote.body), vote.signature):
        return f"the signature of replica {message.sender} does not hold"
    return message
