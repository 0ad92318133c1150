"""What a set of VIEW-CHANGEs decides: a pure function, the same at primary and backups.

OSDI'99, section 4.4: the highest proven checkpoint h, and for every sequence number above it up
to the highest that anyone prepared, the digest of the certificate of the highest view, or the
null request. A prepared batch has a certificate in every quorum of VIEW-CHANGEs, so what may have
been committed is kept. That certificates are sound has been checked by `chain.pbft.verify`.
"""

from __future__ import annotations

import msgspec

from chain.errors import PeerFault
from chain.pbft.inputs import Received
from chain.pbft.messages import CheckpointProof, PrePrepare, Proposal
from chain.pbft.state import as_new_view, as_view_change

__all__ = ["Decision", "check_window", "decide", "matches", "null_digest"]


class Decision(msgspec.Struct, frozen=True):
    """`ordered`: the digest for each sequence number from `checkpoint.seq` + 1 on, in order."""

    checkpoint: CheckpointProof
    ordered: tuple[bytes, ...]


def null_digest(seq: int) -> bytes:
    return Proposal.digest_of(Proposal.null(seq).encode())


def check_window(received: Received, window: int) -> None:
    """Certificates stand between the watermarks of their sender. Raises PeerFault."""
    message, contents = as_view_change(received), received.view_change
    assert contents is not None
    last = message.stable_seq
    for proof in contents.prepared:
        if proof.pre_prepare.seq <= last:
            raise PeerFault("bad-view-change", "certificates out of order or not above h")
        last = proof.pre_prepare.seq
    if last > message.stable_seq + window:
        raise PeerFault("bad-view-change", f"certificate for {last} above the high watermark")


def decide(view_changes: list[Received]) -> Decision:
    highest = max(view_changes, key=lambda item: as_view_change(item).stable_seq)
    stable = as_view_change(highest)
    checkpoint = CheckpointProof(stable.stable_seq, stable.stable_head, stable.stable_proof)
    chosen: dict[int, tuple[int, bytes]] = {}
    for received in view_changes:
        assert received.view_change is not None
        for proof in received.view_change.prepared:
            certificate = proof.pre_prepare
            candidate = (certificate.view, certificate.digest)
            if certificate.seq > checkpoint.seq:
                chosen[certificate.seq] = max(candidate, chosen.get(certificate.seq, candidate))
    last = max(chosen, default=checkpoint.seq)
    ordered = tuple(
        chosen[seq][1] if seq in chosen else null_digest(seq)
        for seq in range(checkpoint.seq + 1, last + 1)
    )
    return Decision(checkpoint, ordered)


def matches(received: Received, decision: Decision) -> bool:
    """Whether a NEW-VIEW's O is exactly what its V decides: nothing left out, added or changed."""
    message = as_new_view(received)
    given: tuple[PrePrepare, ...] = received.new_pre_prepares
    if len(given) != len(decision.ordered):
        return False
    expected = enumerate(decision.ordered, start=decision.checkpoint.seq + 1)
    return all(
        entry.view == message.view and entry.seq == seq and entry.digest == digest
        for entry, (seq, digest) in zip(given, expected, strict=True)
    )
