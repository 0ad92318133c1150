"""What a state transfer is fetching: intervals of blocks, pieces of them, and who is asked.

Plain notes; what is done about them is in `transfer`.
"""

from __future__ import annotations

from chain.block import Block
from chain.messages import CheckpointProof, Signed

__all__ = ["Interval", "Piece", "Transfer"]


class Piece:
    """Blocks `start`..`stop` of one interval; `blocks` is filled from `start` on, by `source`.

    `earlier` were asked before: where messages take longer than our patience, theirs come late.
    `answer_bytes` is what the last answer of `source` came to.
    """

    __slots__ = (
        *("answer_bytes", "asked", "blocks", "earlier"),
        *("evidence", "source", "start", "stop"),
    )

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.source = -1
        self.asked = -1
        self.earlier: set[int] = set()  # never iterated
        self.blocks: list[Block] = []
        self.answer_bytes = 0
        self.evidence: Signed | None = None

    @property
    def complete(self) -> bool:
        return len(self.blocks) == self.stop - self.start + 1


class Interval:
    __slots__ = ("asked", "heads", "pieces", "proof", "source", "start", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.source = -1
        self.asked = -1
        self.heads: tuple[bytes, ...] = ()
        self.proof: CheckpointProof | None = None
        self.pieces: list[Piece] = []

    def head(self, seq: int) -> bytes:
        return self.heads[seq - self.start]


class Transfer:
    """What is being fetched. `running` from the first fetch until the proven checkpoint."""

    def __init__(self) -> None:
        self.running = False
        self.probing = False  # asked what comes after the last interval, expecting nothing
        self.intervals: list[Interval] = []
        self.installing: Piece | None = None
        self.turn = 0
        self.liars: set[int] = set()
        self.silent: set[int] = set()

    def source(self, candidates: list[int]) -> int:
        """The next in turn; liars and the silent come back when nobody else is left."""
        willing = [peer for peer in candidates if peer not in self.liars | self.silent]
        if not willing:
            self.silent.clear()
            willing = [peer for peer in candidates if peer not in self.liars]
        if not willing:
            self.liars.clear()
            willing = candidates
        self.turn += 1
        return willing[self.turn % len(willing)]
