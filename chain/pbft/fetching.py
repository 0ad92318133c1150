"""The state of a transfer: intervals of blocks, pieces of them, and their sources.

Plain data; `transfer` acts on it.
"""

from __future__ import annotations

import msgspec

from chain.block import Block
from chain.pbft.messages import CheckpointProof, Signed

__all__ = ["Fetched", "Interval", "Piece", "Transfer"]


class Fetched(msgspec.Struct, eq=False):
    """The blocks of a piece that one source has sent, from the start of the piece on: `held` bytes.
    `evidence` is its last message, `size` the bytes of the blocks in that message."""

    blocks: list[Block] = []
    held: int = 0
    evidence: Signed | None = None
    size: int = 0


class Piece(msgspec.Struct, eq=False):
    """Blocks `start`..`stop` of one interval. `source` was asked last, at tick `asked`. `answers`
    are of all sources: over a slow link, one may come after another source was asked."""

    start: int
    stop: int
    source: int = -1
    asked: int = -1
    answers: dict[int, Fetched] = {}

    @property
    def whole(self) -> int | None:
        """The source that has sent the whole piece."""
        length = self.stop - self.start + 1
        full = (source for source, each in self.answers.items() if len(each.blocks) == length)
        return next(full, None)


class Interval(msgspec.Struct, eq=False):
    """Blocks `start`..`stop`, at a checkpoint. Without `proof`, its heads are not here yet."""

    start: int
    stop: int
    source: int = -1
    asked: int = -1
    heads: tuple[bytes, ...] = ()
    proof: CheckpointProof | None = None
    pieces: list[Piece] = []

    def head(self, seq: int) -> bytes:
        return self.heads[seq - self.start]


class Transfer(msgspec.Struct, eq=False):
    """`running` from the first fetch until the proven checkpoint. `probing`: we have asked what
    comes after the last interval, and expect nothing."""

    running: bool = False
    probing: bool = False
    intervals: list[Interval] = []
    installing: Piece | None = None
    turn: int = 0
    liars: set[int] = set()
    silent: set[int] = set()
    pruned: dict[int, int] = {}  # source: the height up to which it says that it pruned

    @property
    def pieces(self) -> list[Piece]:
        """The pieces of all intervals, in order."""
        return [piece for interval in self.intervals for piece in interval.pieces]

    @property
    def held(self) -> int:
        """Bytes of blocks that wait to be installed."""
        return sum(each.held for piece in self.pieces for each in piece.answers.values())

    def pruned_below(self, members: list[int], weak: int) -> int:
        """The height up to which blocks may be pruned. f+1 members name it or more: one of them is
        honest."""
        claims = sorted((self.pruned.get(each, 0) for each in members), reverse=True)
        return claims[weak - 1] if len(claims) >= weak else 0

    def source(self, candidates: list[int]) -> int:
        """The next source in turn. Liars and silent ones are asked if nobody else is left."""
        willing = [peer for peer in candidates if peer not in self.liars | self.silent]
        if not willing:
            self.silent.clear()
            willing = [peer for peer in candidates if peer not in self.liars]
        if not willing:
            self.liars.clear()
            willing = candidates
        self.turn += 1
        return willing[self.turn % len(willing)]
