"""Frames that wait to be verified: bounded per party, taken fairly.

A party that floods fills its own queue; then the wire stops reading from it. Each turn takes at
most `TURN_BYTES_MAX` and `TURN_FRAMES_MAX` from each party, and from another replica only
`PEER_FRAMES_MAX` frames: an honest replica sends a few for each block, and a Byzantine one must not
keep us busy for longer. Requests of clients come by the hundred; the requests of one turn form a
batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from nodes.ports import Party

__all__ = [
    "FRAME_COST_BYTES",
    "PEER_FRAMES_MAX",
    "QUEUE_BYTES_MAX",
    "TURN_BYTES_MAX",
    "TURN_FRAMES_MAX",
    "Arrivals",
    "Inbox",
]

QUEUE_BYTES_MAX = 2 * 1024 * 1024  # above this reading pauses; one more frame may be on its way
FRAME_COST_BYTES = 128  # what any frame that waits costs beside its content: a frame may be empty
TURN_BYTES_MAX = 1024 * 1024
TURN_FRAMES_MAX = 1024
PEER_FRAMES_MAX = 16


class Inbox:
    """Order is kept per party, not between parties. `now_ns` dates arrivals, for the trace."""

    def __init__(self, now_ns: Callable[[], int] = lambda: 0) -> None:
        self._now_ns = now_ns
        self._queues: dict[Party, deque[tuple[int, int, bytes]]] = {}  # number, when, frame
        self.arrived = 0  # frames, ever
        self.came_ns: list[int] = []  # of the frames that were taken last: when each arrived
        self._bytes: dict[Party, int] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, party: Party, frame: bytes) -> None:
        queue = self._queues.get(party)
        if queue is None:
            queue = self._queues[party] = deque()
            self._bytes[party] = 0
        self.arrived += 1
        queue.append((self.arrived, self._now_ns(), frame))
        self._bytes[party] += len(frame) + FRAME_COST_BYTES

    def full(self, party: Party) -> bool:
        """Whether the wire should stop reading from the party for now."""
        return self._bytes.get(party, 0) > QUEUE_BYTES_MAX

    @property
    def taken(self) -> int:
        """How many frames, counted from the first that arrived, have all been taken."""
        return min((queue[0][0] - 1 for queue in self._queues.values()), default=self.arrived)

    def take(self) -> list[tuple[Party, bytes]]:
        """One turn's share of every party; empty when nothing waits."""
        taken: list[tuple[Party, bytes]] = []
        came_ns: list[int] = []
        for party in list(self._queues):
            queue = self._queues[party]
            size = count = 0
            count_max = TURN_FRAMES_MAX if isinstance(party, str) else PEER_FRAMES_MAX
            while queue and size < TURN_BYTES_MAX and count < count_max:
                _, at_ns, frame = queue.popleft()
                came_ns.append(at_ns)
                size += len(frame)
                count += 1
                taken.append((party, frame))
            if queue:
                self._bytes[party] -= size + count * FRAME_COST_BYTES
            else:
                del self._queues[party], self._bytes[party]
        self.came_ns = came_ns
        return taken


class Arrivals(Inbox):
    """An inbox whose owner waits for frames. `fail` is for the wire that fills it."""

    def __init__(self) -> None:
        super().__init__()
        self._came = asyncio.Event()
        self._failure: BaseException | None = None

    def put(self, party: Party, frame: bytes) -> None:
        super().put(party, frame)
        self._came.set()

    def fail(self, error: BaseException) -> None:
        self._failure = error
        self._came.set()

    async def turn(self) -> list[tuple[Party, bytes]]:
        """One turn's share, as soon as there is one. Raises the wire's failure."""
        while not self and self._failure is None:
            self._came.clear()
            await self._came.wait()
        if self._failure is not None:
            raise self._failure
        return self.take()
