"""A store that forgets when the process ends: for benchmarks and tests. Passes the same suite as
`sqlite_store`; the simulator's store, which can lose unsynced writes, is in `testbed.simulate`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from chain.errors import Misuse
from chain.ledger.pruning import prune
from chain.pbft.effects import Durable, FactKind
from nodes.ports import FORGETTABLE, PRUNE_BLOCKS_MAX, Stored

__all__ = ["MemoryStore"]


class MemoryStore:
    """Implements `ports.Store`."""

    def __init__(self) -> None:
        self._facts: dict[str, dict[tuple[int, int], Durable]] = {}  # by kind, then (view, seq)
        self._stable: list[tuple[int, int]] = []  # (seq, view), ascending
        self._blocks: list[Stored] = []
        self._pruned = 0

    def facts(self) -> Sequence[Durable]:
        return [facts[key] for _, facts in sorted(self._facts.items()) for key in sorted(facts)]

    def fact(self, kind: FactKind, view: int, seq: int) -> Durable | None:
        return self._facts.get(kind, {}).get((view, seq))

    def put_fact(self, fact: Durable) -> None:
        facts = self._facts.setdefault(fact.kind, {})
        key = (fact.view, fact.seq)
        if fact.kind == "stable" and key not in facts:
            insort(self._stable, (fact.seq, fact.view))
        facts[key] = fact

    def forget(self, seq: int) -> None:
        for kind in FORGETTABLE:
            facts = self._facts.get(kind, {})
            for key in [key for key in facts if key[1] <= seq]:
                del facts[key]

    def put_block(self, height: int, stored: Stored) -> None:
        if height != len(self._blocks) + 1:
            raise Misuse(f"block {height} after {len(self._blocks)}")
        self._blocks.append(stored)

    def prune(self, stop: int) -> None:
        stop = min(stop, self._pruned + PRUNE_BLOCKS_MAX)
        for height in range(self._pruned + 1, stop + 1):
            stored = self._blocks[height - 1]
            self._blocks[height - 1] = Stored(prune(stored.block), stored.signature)
        self._pruned = max(self._pruned, stop)

    @property
    def pruned(self) -> int:
        return self._pruned

    @property
    def height(self) -> int:
        return len(self._blocks)

    def blocks(self, start: int, stop: int) -> Iterator[Stored]:
        yield from self._blocks[max(start - 1, 0) : max(stop, 0)]

    def heads(self, start: int, stop: int) -> Sequence[bytes]:
        return [stored.block.head for stored in self.blocks(start, stop)]

    def stable_from(self, seq: int) -> Durable | None:
        at = bisect_left(self._stable, (seq, 0))
        if at == len(self._stable):
            return None
        found, view = self._stable[at]
        return self._facts["stable"][view, found]

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass
