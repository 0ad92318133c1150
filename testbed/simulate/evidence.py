"""Judges accusations again, from the bytes of their evidence, sharing no code with the product.

The culprit signed the evidence. It contradicts itself (two statements in one place), or it breaks a
rule that its bytes show. This module reads it with plain MessagePack, and computes again what a
NEW-VIEW must order (OSDI'99, section 4.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import cbor2
import msgspec

__all__ = ["Accusation", "fault_of"]

_decode = msgspec.msgpack.decode
# Position of a field in an encoded message: tag, epoch, sender, then its own.
_TAG, _EPOCH, _SENDER, _VIEW, _SEQ, _DIGEST = range(6)
_ROOT_AT = 124  # place of the Merkle root of the records in a head
_PLACES = {  # reason -> tags that it may be about, fields that must agree, field that must not
    "equivocation-pre-prepare": (("PP",), (_EPOCH, _VIEW, _SEQ), _DIGEST),
    "equivocation-prepare": (("P", "PP"), (_EPOCH, _VIEW, _SEQ), _DIGEST),
    "equivocation-commit": (("C",), (_EPOCH, _VIEW, _SEQ), _DIGEST),
    "equivocation-checkpoint": (("CP",), (_EPOCH, 3), 4),
    "equivocation-view-change": (("VC",), (_EPOCH, _VIEW), None),
}
_TAG_OF = {
    "bad-proposal": "PP",
    "bad-view-change": "VC",
    "bad-new-view": "NV",
    "lying-heads": "DH",
    "lying-bodies": "DB",
}


class Accusation(msgspec.Struct, frozen=True):
    """An accusation as a replica notes it. `evidence` holds encoded `Signed` frames."""

    culprit: int
    reason: str
    evidence: list[bytes]


def fault_of(
    accusation: Accusation,
    *,
    verify: Callable[[bytes, bytes], bool],
    chain: Callable[[int], bytes | None],
    log_window: int,
) -> str | None:
    """Why this evidence proves nothing; None if it is valid.

    `verify(body, signature)` checks the culprit's signature; `chain(height)` is the hash of the
    head that honest replicas executed there, None where none has.
    """
    reason = accusation.reason
    frames = [_decode(frame) for frame in accusation.evidence]
    if not all(verify(frame[0], frame[1]) for frame in frames):
        return "the culprit did not sign it"
    said = [_decode(frame[0]) for frame in frames]
    if any(message[_SENDER] != accusation.culprit for message in said):
        return "it speaks in the name of another"
    if reason in _PLACES:
        return _two_statements(reason, said)
    tag = _TAG_OF.get(reason)
    if tag is None or len(said) != 1 or said[0][_TAG] != tag:
        return f"{[message[_TAG] for message in said]} prove no {reason}"
    match tag:
        case "VC":
            broken = _reaches_too_far(said[0], log_window)
        case "NV":
            broken = _orders_otherwise(said[0], log_window)
        case "DH":
            broken = _heads_lie(said[0], chain)
        case "DB":
            broken = _bodies_lie(said[0], chain)
        case _:
            broken = True  # whether the proposal broke a rule depends on a state that is gone
    return None if broken else "it breaks no rule"


def _two_statements(reason: str, said: list[Any]) -> str | None:
    tags, equal, different = _PLACES[reason]
    if len(said) != 2 or any(message[_TAG] not in tags for message in said):
        return f"{[message[_TAG] for message in said]} prove no {reason}"
    one, other = said
    if any(one[field] != other[field] for field in equal):
        return "the statements are about different things"
    if (one == other) if different is None else (one[different] == other[different]):
        return "the statements agree"
    return None


def _prepared(view_change: Any) -> list[tuple[int, int, bytes]]:
    """(view, sequence number, digest) of each certificate."""
    messages = [_decode(pre_prepare[0]) for pre_prepare, _ in view_change[7]]
    return [(m[_VIEW], m[_SEQ], m[_DIGEST]) for m in messages]


def _reaches_too_far(view_change: Any, log_window: int) -> bool:
    stable = view_change[4]
    numbers = [seq for _, seq, _ in _prepared(view_change)]
    outside = any(not stable < seq <= stable + log_window for seq in numbers)
    return outside or numbers != sorted(set(numbers))


def _orders_otherwise(new_view: Any, log_window: int) -> bool:
    """Whether O differs from what V decides."""
    view_changes = [_decode(signed[0]) for signed in new_view[4]]
    if any(_reaches_too_far(view_change, log_window) for view_change in view_changes):
        return True
    stable = max(view_change[4] for view_change in view_changes)
    highest: dict[int, tuple[int, bytes]] = {}
    for view_change in view_changes:
        for view, seq, digest in _prepared(view_change):
            if seq > stable:
                highest[seq] = max(highest.get(seq, (view, digest)), (view, digest))
    wanted = [
        (seq, highest[seq][1] if seq in highest else _null(seq))
        for seq in range(stable + 1, max(highest, default=stable) + 1)
    ]
    given = [_decode(signed[0]) for signed in new_view[5]]
    return [(m[_SEQ], m[_DIGEST]) for m in given] != wanted or any(
        m[_VIEW] != new_view[_VIEW] for m in given
    )


def _null(seq: int) -> bytes:
    return hashlib.sha256(b"m2m/1/proposal\0" + msgspec.msgpack.encode([seq, 0, 0, []])).digest()


def _heads_lie(heads: Any, chain: Callable[[int], bytes | None]) -> bool:
    last = heads[3] + len(heads[4]) - 1
    proven = [_decode(signed[0])[3] for signed in heads[5]]
    return proven != [last] * len(proven) or any(
        hashlib.sha256(head).digest() != chain(height)
        for height, head in enumerate(heads[4], start=heads[3])
    )


def _bodies_lie(bodies: Any, chain: Callable[[int], bytes | None]) -> bool:
    return any(
        hashlib.sha256(head).digest() != chain(height)
        or _root([b"\0" + leaf for leaf, _ in records]) != head[_ROOT_AT : _ROOT_AT + 32]
        or any(cbor2.loads(leaf)["item"] != hashlib.sha256(item).digest() for leaf, item in records)
        for height, (head, records) in enumerate(bodies[4], start=bodies[3])
    )


def _root(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, as it is written there."""
    if len(leaves) < 2:
        return hashlib.sha256(b"".join(leaves)).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    both = _root(leaves[:split]) + _root(leaves[split:])
    return hashlib.sha256(b"\1" + both).digest()
