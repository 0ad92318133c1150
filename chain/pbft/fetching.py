"""What a state transfer is fetching: intervals of blocks, pieces of them, and who is asked.

Plain notes; what is done about them is in `transfer`.
"""

from __future__ import annotations

from chain.block import Block
from chain.pbft.messages import CheckpointProof, Signed

__all__ = ["Fetched", "Interval", "Piece", "Transfer"]


class Fetched:
    """What one source has given of a piece, from its start on; its last message, and the size of
    that."""

    __slots__ = ("blocks", "evidence", "size")

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.evidence: Signed | None = None
        self.size = 0


class Piece:
    """Blocks `start`..`stop` of one interval. `answers` are of all that were asked, `source` is
    the last of them: where messages take longer than our patience, others' come late."""

    __slots__ = ("answers", "asked", "source", "start", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.source = -1
        self.asked = -1
        self.answers: dict[int, Fetched] = {}

    @property
    def whole(self) -> int | None:
        """Who has given all of it."""
        length = self.stop - self.start + 1
        full = (source for source, each in self.answers.items() if len(each.blocks) == length)
        return next(full, None)


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
