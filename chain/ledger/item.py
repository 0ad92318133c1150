"""Batch items: a client's signed operation together with its authentication group's verdicts.

An item is MessagePack [cose bytes, [endorsement frames]]. `operations` has the operations,
`auth_group` draws the group, and `registry` decides whether an operation is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from chain.errors import Misuse, PeerFault
from chain.genesis import Membership
from chain.keys import Scheme
from chain.ledger.envelope import (
    COSE_BYTES_MAX,
    Opened,
    SignatureClaim,
    false_claim,
    read_claims,
    read_operation,
)
from chain.pbft.messages import (
    Endorsement,
    ReplicaMessage,
    Signed,
    decoded,
    encode,
    signed_bytes,
)
from chain.pbft.state_machine import VerifiedRequest
from chain.quorum import REPLICAS_MAX

__all__ = [
    "ITEM_BYTES_MAX",
    "Authenticated",
    "cose_of",
    "endorse",
    "make_item",
    "open_item",
    "open_items",
    "read_item",
    "request_of",
]

ITEM_BYTES_MAX = COSE_BYTES_MAX + REPLICAS_MAX * 256


class _Item(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    cose: bytes
    endorsements: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=REPLICAS_MAX)]


class Authenticated(msgspec.Struct, frozen=True, gc=False):
    """The content of `VerifiedRequest.operation`: the opened operation and its endorsers.

    `endorsers` are ids of members of epoch `epoch` with a signed accept, ascending. Whether they
    belong to the request's group is not checked yet.
    """

    opened: Opened
    epoch: int = 0
    endorsers: tuple[int, ...] = ()


_items = msgspec.msgpack.Decoder(_Item)
_messages: msgspec.msgpack.Decoder[ReplicaMessage] = msgspec.msgpack.Decoder(ReplicaMessage)


def make_item(cose: bytes, endorsements: tuple[Signed, ...] = ()) -> bytes:
    """The bytes of a batch item."""
    return encode(_Item(cose, endorsements))


def cose_of(item: bytes) -> bytes:
    """The signed operation inside a batch item. Raises PeerFault."""
    return _parts(item).cose


def endorse(
    request: VerifiedRequest, membership: Membership, endorsements: tuple[Signed, ...]
) -> VerifiedRequest:
    """`request` as it goes into a batch: with endorsements of this epoch, each verified before.

    Raises PeerFault("bad-endorsement") if they are not distinct accepts in the order of members.
    """
    authenticated = request.operation
    if not isinstance(authenticated, Authenticated):
        raise Misuse("a request that chain.ledger.item did not open")
    opened = authenticated.opened
    endorsers = [_endorsement(signed, opened.id).sender for signed in endorsements]
    item = make_item(_parts(request.item).cose, endorsements)
    return request_of(item, opened, membership.epoch, endorsers)


def open_items(
    items: Sequence[bytes], network: bytes, membership: Membership, scheme: Scheme
) -> list[VerifiedRequest | PeerFault]:
    """Decodes items and verifies every signature in them. Stateless and thread-safe.

    The fault of an item: those of `open_operation`, "bad-item", and "bad-endorsement" if any
    endorsement is not an accept of this request, by a member of this epoch, with a good signature.
    "unknown-epoch" if it is of another epoch: an honest sender may have switched earlier or later
    than this replica, so that code blames nobody.

    All are decoded before any signature is checked. If each item were decoded and checked in turn,
    interpreter and signature code would push each other out of the processor's caches, at a cost of
    7 of 90 us per request.
    """
    read: list[tuple[VerifiedRequest, list[SignatureClaim]] | PeerFault] = []
    for item in items:
        try:
            read.append(_read_claims(item, network, membership))
        except PeerFault as fault:
            read.append(fault)
    return [
        each if isinstance(each, PeerFault) else false_claim(each[1], scheme) or each[0]
        for each in read
    ]


def open_item(
    item: bytes, network: bytes, membership: Membership, scheme: Scheme
) -> VerifiedRequest:
    """`open_items` for one. Raises PeerFault."""
    (opened,) = open_items((item,), network, membership, scheme)
    if isinstance(opened, PeerFault):
        raise opened
    return opened


def _read_claims(
    item: bytes, network: bytes, membership: Membership
) -> tuple[VerifiedRequest, list[SignatureClaim]]:
    parts = _parts(item)
    opened, claims = read_claims(parts.cose, network)
    endorsers = []
    for signed in parts.endorsements:
        endorsement = _endorsement(signed, opened.id)
        sender, data = endorsement.sender, signed_bytes(network, signed.body)
        spki = membership.spki(sender)
        if endorsement.epoch != membership.epoch:
            raise PeerFault("unknown-epoch", f"endorsed in {endorsement.epoch}: ahead or behind")
        if spki is None:
            raise PeerFault("bad-endorsement", f"{sender} is not a member of this epoch")
        text = f"signature of {sender} is not valid"
        claims.append(SignatureClaim(spki, data, signed.signature, "bad-endorsement", text))
        endorsers.append(sender)
    return request_of(item, opened, membership.epoch, endorsers), claims


def read_item(item: bytes, network: bytes) -> VerifiedRequest:
    """Decodes without verifying a signature: for items that a trusted head commits to."""
    parts = _parts(item)
    opened = read_operation(parts.cose, network)
    endorsements = [_endorsement(signed, opened.id) for signed in parts.endorsements]
    epoch = endorsements[0].epoch if endorsements else 0
    return request_of(item, opened, epoch, [each.sender for each in endorsements])


def _parts(item: bytes) -> _Item:
    if len(item) > ITEM_BYTES_MAX:
        raise PeerFault("oversize", f"{len(item)} bytes, at most {ITEM_BYTES_MAX}")
    return decoded(_items, item, "bad-item")


def _endorsement(signed: Signed, request: bytes) -> Endorsement:
    message = decoded(_messages, signed.body, "bad-endorsement")
    if not isinstance(message, Endorsement) or signed.attachment:
        raise PeerFault("bad-endorsement", "another kind of message")
    if message.request != request or not message.accepted:
        raise PeerFault("bad-endorsement", "not an accept of this request")
    return message


def request_of(item: bytes, opened: Opened, epoch: int, endorsers: list[int]) -> VerifiedRequest:
    """Raises PeerFault("bad-endorsement") unless endorsers are distinct and in order."""
    if endorsers != sorted(set(endorsers)):
        raise PeerFault("bad-endorsement", "members must be distinct and in order")
    operation = opened.operation
    return VerifiedRequest(
        id=opened.id,
        client=operation.node,
        counter=operation.counter,
        item=item,
        operation=Authenticated(opened, epoch, tuple(endorsers)),
    )
