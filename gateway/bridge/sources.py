"""Which replicas send whole blocks to a gateway: two at once, judged by the blocks they bring.

All replicas send their signed heads. A block becomes final when f+1 heads agree and one source has
brought its body. If the gateway has not reached the height that f+1 replicas claimed a period ago,
it replaces the source that brought the fewest final blocks since then. So a source that sends
nothing, or only a little to look alive, holds the gateway back for a moment only. Pure: the caller
gives the time. `nodes.gateway.replica_links` owns the links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

__all__ = ["PERIOD_S", "SOURCES_MAX", "Sources"]

SOURCES_MAX = 2
PERIOD_S = 1.0


class Sources:
    """Replicas in it are asked for bodies; all others for heads only. Where replicas prune, f+1
    must bring the same pruned body: then `sources_max` must be that many."""

    def __init__(self, now_s: float, sources_max: int = SOURCES_MAX) -> None:
        self._sources_max = sources_max
        self._sources: dict[int, int] = {}  # replica: blocks that it had brought by `_since_s`
        self._since_s = now_s
        self._goal = 0  # the height that was claimed at `_since_s`

    def __contains__(self, replica: int) -> bool:
        return replica in self._sources

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._sources))

    def fill(self, connected: Collection[int], brought: Counter[int]) -> list[int]:
        """Replaces sources whose link is lost. Returns the new ones."""
        for replica in set(self._sources) - set(connected):
            del self._sources[replica]
        free = sorted(set(connected) - set(self._sources))[: self._sources_max - len(self._sources)]
        self._sources |= {replica: brought[replica] for replica in free}
        return free

    def judge(
        self,
        connected: Collection[int],
        height: int,
        claimed: int,
        brought: Counter[int],
        now_s: float,
    ) -> tuple[int, int] | None:
        """Call it often. `claimed` is the height that f+1 replicas claim, `brought` counts final
        blocks by who brought them first. Returns (old source, new source) if one was replaced."""
        if now_s - self._since_s < PERIOD_S:
            return None
        replaced = self._replace(connected, brought) if height < self._goal else None
        self._since_s, self._goal = now_s, claimed
        self._sources = {replica: brought[replica] for replica in self._sources}
        return replaced

    def _replace(self, connected: Collection[int], brought: Counter[int]) -> tuple[int, int] | None:
        others = sorted(set(connected) - set(self._sources))
        if not self._sources or not others:
            return None
        slowest = min(self._sources, key=lambda each: (brought[each] - self._sources[each], each))
        following = next((each for each in others if each > slowest), others[0])
        del self._sources[slowest]
        self._sources[following] = brought[following]
        return slowest, following
