"""The decision of a set of VIEW-CHANGEs: a pure function, the same at primary and backups.

OSDI'99, section 4.4. The decision is the highest proven checkpoint h, and a digest for every
sequence number above h up to the highest that anyone prepared: that of the certificate of the
highest view, or the null request. A batch that may be committed has a certificate in every quorum
of VIEW-CHANGEs, so it is kept. `chain.pbft.verify` has checked that certificates are sound.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chain.errors import PeerFault
from chain.pbft.inputs import Received
from chain.pbft.messages import CheckpointProof, NewView, Proposal, ViewChange

__all__ = ["Decision", "check_window", "decide", "matches", "null_digest"]


class Decision(msgspec.Struct, frozen=True):
    """`ordered`: the digest for each sequence number from `checkpoint.seq` + 1 on, in order."""

    checkpoint: CheckpointProof
    ordered: tuple[bytes, ...]


def null_digest(seq: int) -> bytes:
    return Proposal.digest_of(Proposal.null(seq).encode())


def check_window(received: Received[ViewChange], window: int) -> None:
    """Certificates stand between the watermarks of their sender. Raises PeerFault."""
    last = stable = received.message.stable_seq
    for pre_prepare in received.prepared:
        if pre_prepare.seq <= last:
            raise PeerFault("bad-view-change", "certificates out of order or not above h")
        last = pre_prepare.seq
    if last > stable + window:
        raise PeerFault("bad-view-change", f"certificate for {last} above the high watermark")


def decide(view_changes: Sequence[Received[ViewChange]]) -> Decision:
    stable = max((item.message for item in view_changes), key=lambda message: message.stable_seq)
    checkpoint = CheckpointProof(stable.stable_seq, stable.stable_head, stable.stable_proof)
    chosen: dict[int, tuple[int, bytes]] = {}
    for received in view_changes:
        for certificate in received.prepared:
            candidate = (certificate.view, certificate.digest)
            if certificate.seq > checkpoint.seq:
                chosen[certificate.seq] = max(candidate, chosen.get(certificate.seq, candidate))
    last = max(chosen, default=checkpoint.seq)
    ordered = tuple(
        chosen[seq][1] if seq in chosen else null_digest(seq)
        for seq in range(checkpoint.seq + 1, last + 1)
    )
    return Decision(checkpoint, ordered)


def matches(received: Received[NewView], decision: Decision) -> bool:
    """Whether a NEW-VIEW's O is exactly what its V decides: nothing left out, added or changed."""
    given, view = received.pre_prepares, received.message.view
    if len(given) != len(decision.ordered):
        return False
    expected = enumerate(decision.ordered, start=decision.checkpoint.seq + 1)
    return all(
        entry.view == view and entry.seq == seq and entry.digest == digest
        for entry, (seq, digest) in zip(given, expected, strict=True)
    )
