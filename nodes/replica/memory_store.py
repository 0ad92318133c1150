"""A store that forgets when the process ends: for benchmarks and tests. It passes the same suite as
`sqlite_store`. The simulator's disk (`testbed.simulate.disk`) is one that can lose unsynced writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chain.errors import Misuse
from chain.ledger.pruning import prune
from chain.pbft.effects import Durable, FactKind
from nodes.ports import FORGETTABLE, PRUNE_BLOCKS_MAX, Stored

__all__ = ["MemoryStore"]


class MemoryStore:
    """Implements `ports.Store`."""

    def __init__(self) -> None:
        self._facts: dict[tuple[str, int, int], Durable] = {}  # by kind, view, seq
        self._blocks: list[Stored] = []
        self.pruned = 0

    def facts(self) -> Sequence[Durable]:
        return [self._facts[key] for key in sorted(self._facts)]

    def fact(self, kind: FactKind, view: int, seq: int) -> Durable | None:
        return self._facts.get((kind, view, seq))

    def put_fact(self, fact: Durable) -> None:
        self._facts[fact.kind, fact.view, fact.seq] = fact

    def forget(self, seq: int) -> None:
        for key in [key for key in self._facts if key[0] in FORGETTABLE and key[2] <= seq]:
            del self._facts[key]

    def put_block(self, height: int, stored: Stored) -> None:
        if height != len(self._blocks) + 1:
            raise Misuse(f"block {height} after {len(self._blocks)}")
        self._blocks.append(stored)

    def prune(self, stop: int) -> None:
        stop = min(stop, self.pruned + PRUNE_BLOCKS_MAX)
        for height in range(self.pruned + 1, stop + 1):
            stored = self._blocks[height - 1]
            self._blocks[height - 1] = Stored(prune(stored.block), stored.signature)
        self.pruned = max(self.pruned, stop)

    @property
    def height(self) -> int:
        return len(self._blocks)

    def blocks(self, start: int, stop: int) -> Iterator[Stored]:
        yield from self._blocks[max(start - 1, 0) : max(stop, 0)]

    def heads(self, start: int, stop: int) -> Sequence[bytes]:
        return [stored.block.head for stored in self.blocks(start, stop)]

    def stable_from(self, seq: int) -> Durable | None:
        above = [each for each in self._facts.values() if each.kind == "stable" and each.seq >= seq]
        return min(above, key=lambda fact: fact.seq, default=None)

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass
