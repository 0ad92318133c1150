"""Recent head hashes, one of which an enrolment must name, and recent request ids.

An enrolment may name a head of the last `window` blocks, and its id is remembered as long. So a
captured enrolment is a duplicate inside the window and stale after it, without any clock. The owner
keeps both a little longer than the window, to tell "stale" from "unknown".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["RecentHeads", "RecentIds"]


class RecentHeads:
    """Heights of the last head hashes; O(1) per block."""

    def __init__(self, keep_blocks: int) -> None:
        self._keep = keep_blocks
        self._heights: dict[bytes, int] = {}  # the oldest first

    def add(self, head: bytes, height: int) -> None:
        self._heights[head] = height
        if len(self._heights) > self._keep:
            del self._heights[next(iter(self._heights))]

    def height(self, head: bytes) -> int | None:
        return self._heights.get(head)


class RecentIds:
    """Request ids of the last blocks; bounded by blocks kept times requests per block."""

    def __init__(self, keep_blocks: int) -> None:
        self._keep = keep_blocks
        self._order: deque[tuple[bytes, ...]] = deque()
        self._ids: set[bytes] = set()

    def add_block(self, ids: Iterable[bytes]) -> None:
        block = tuple(ids)
        self._order.append(block)
        self._ids.update(block)
        if len(self._order) > self._keep:
            self._ids.difference_update(self._order.popleft())

    def __contains__(self, request: bytes) -> bool:
        return request in self._ids
