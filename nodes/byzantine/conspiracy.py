"""The common knowledge of lying replicas: their members, and a second batch for each proposal.

A primary among them proposes one batch to some replicas and the second to the others. On each side,
all liars vote for the batch of that side. Up to f conspirators achieve nothing; f+1 fork the chain,
which shows the bound. They need no channel: each derives the second batch from the first.
"""

from __future__ import annotations

import msgspec

from chain.pbft.messages import (
    PrePrepare,
    Proposal,
    decode_body,
    decode_proposal,
    decode_signed,
)

__all__ = ["Conspiracy", "twin_of"]

_TWINS_MAX = 1024  # proposals with a second story; the oldest are forgotten


class Conspiracy:
    """`accomplices` (replica ids, the liar's own included) send other batches to `deceived`."""

    def __init__(
        self, accomplices: frozenset[int] = frozenset(), deceived: frozenset[int] = frozenset()
    ) -> None:
        self.accomplices = accomplices
        self.deceived = deceived
        self._twins: dict[bytes, bytes] = {}  # digest of a proposal -> digest of its twin

    def voted(self, stored: bytes) -> None:
        """Takes note of a proposal that was voted for, as the core keeps it durably."""
        if not self.accomplices:
            return
        signed = decode_signed(stored)
        message = decode_body(signed.body)
        if not signed.attachment or not isinstance(message, PrePrepare):
            return  # its batch was seen before
        twin = twin_of(signed.attachment)
        if message.sender in self.accomplices and twin is not None:
            self._twins[message.digest] = Proposal.digest_of(twin)
            if len(self._twins) > _TWINS_MAX:
                del self._twins[next(iter(self._twins))]

    def twin_digest(self, digest: bytes) -> bytes | None:
        """The digest of the proposal that the deceived got instead of the one with this digest."""
        return self._twins.get(digest)


def twin_of(raw: bytes) -> bytes | None:
    """Another batch, as acceptable as this one: without its last request, or a microsecond later.
    A null request has none."""
    proposal = decode_proposal(raw)
    if proposal.is_null:
        return None
    if proposal.items:
        return msgspec.structs.replace(proposal, items=proposal.items[:-1]).encode()
    return msgspec.structs.replace(proposal, time_us=proposal.time_us + 1).encode()
