"""The simulated disk: a store in memory (`nodes.replica.memory_store`) that can lose power at any
operation.

Writes since the last `commit` are not durable. When power fails, a prefix of them survives. The
scenario says how much: none, all, or any part. That is harsher than SQLite, whose transactions
survive whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from chain.genesis import Consensus
from chain.pbft.effects import Durable
from nodes.ports import FORGETTABLE, Stored, StoreFull
from nodes.replica.abstention import Abstention
from nodes.replica.memory_store import MemoryStore
from testbed.simulate.scenario import KeptWrites

__all__ = ["Disk", "PowerLossError"]

_Key = tuple[str, int, int]
# One unsynced write, as its undo: (key, fact before), or the height of a new block.
_Undo = tuple[_Key, Durable | None] | int
_UNKNOWN = -1  # where an abstention ends if no peer was heard yet


class PowerLossError(Exception):
    """The machine stopped inside a disk operation. Pass `keeps` to `power_off`."""

    def __init__(self, keeps: KeptWrites) -> None:
        super().__init__(keeps.value)
        self.keeps = keeps


class Disk(MemoryStore):
    """Outlives the processes that use it."""

    def __init__(
        self, random: Random, on_block: Callable[[int, Stored], None] = lambda height, stored: None
    ) -> None:
        """`on_block(height, stored)` gets every block that a completed step of the process wrote,
        or that outlived a power failure. Nobody could see other blocks."""
        super().__init__()
        self._random = random
        self._on_block = on_block
        self._shown = 0  # blocks that `on_block` has seen
        self._unsynced: list[_Undo] = []
        self._forgotten = [0, 0]  # up to these sequence numbers: (synced, written)
        self._operations_left: int | None = None
        self._on_crash = KeptWrites.LOST
        self._fills_after: int | None = None
        self._abstention: list[int | None] = [None, None]  # up to these heights: (synced, written)
        self.syncs = 0

    # --- power ---------------------------------------------------------------------------------

    def fail_at(self, operation: int, keeps: KeptWrites) -> None:
        """Make power fail at the `operation`-th operation from now (a write or a commit); 0:
        never."""
        self._operations_left = operation or None
        self._on_crash = keeps

    def fill(self, after: int) -> None:
        """Make the disk full after so many more operations, until `drain`."""
        self._fills_after = after

    def drain(self) -> None:
        self._fills_after = None

    def wipe(self) -> None:
        """Replace the disk by an empty one. It begins with the note that votes were forgotten, as
        `nodes.replica.process` writes it beside a damaged store."""
        self._facts.clear()
        self._blocks.clear()
        self._shown = self.pruned = 0
        self._unsynced.clear()
        self._forgotten = [0, 0]
        self._operations_left = None
        self._abstention = [_UNKNOWN, _UNKNOWN]

    def abstention(self, consensus: Consensus) -> Abstention | None:
        """The abstention of a process that starts on this disk, from the notes on it."""
        until = self._abstention[1]
        if until is None:
            return None
        return Abstention(consensus, None if until == _UNKNOWN else until)

    def note_abstention(self, until: int | None) -> None:
        """Note it. It is durable with the next commit."""
        self._abstention[1] = until

    def power_off(self, keeps: KeptWrites) -> None:
        """Undoes writes that were not durable; `keeps` says how many."""
        self._operations_left = None
        match keeps:
            case KeptWrites.LOST:
                kept = 0
            case KeptWrites.KEPT:
                kept = len(self._unsynced)
            case KeptWrites.TORN:
                kept = self._random.randint(0, len(self._unsynced))
        while len(self._unsynced) > kept:
            undo = self._unsynced.pop()
            if isinstance(undo, int):
                del self._blocks[undo - 1 :]
            else:
                key, before = undo
                if before is None:
                    del self._facts[key]
                else:
                    self._facts[key] = before
        self._unsynced.clear()
        self._shown = min(self._shown, len(self._blocks))
        self.show()
        self._forgotten = [self._forgotten[keeps is KeptWrites.KEPT]] * 2
        self._abstention = [self._abstention[keeps is KeptWrites.KEPT]] * 2

    def show(self) -> None:
        """Call it when a step of the process is complete: shows its blocks to `on_block`."""
        while self._shown < len(self._blocks):
            self._shown += 1
            self._on_block(self._shown, self._blocks[self._shown - 1])

    def durable(self, kind: str, view: int, seq: int) -> Durable | None:
        """The fact as it is after any crash."""
        key = (kind, view, seq)
        for undo in self._unsynced:
            if not isinstance(undo, int) and undo[0] == key:
                return undo[1]
        return self._facts.get(key)

    def holds(self, kind: str, view: int, seq: int) -> bool:
        """Whether this fact survives any crash: it is there and synced. A fact that was forgotten
        for good counts too, because a checkpoint has replaced it."""
        if seq <= self._forgotten[0]:
            return True
        key = (kind, view, seq)
        return key in self._facts and not any(
            undo[0] == key for undo in self._unsynced if not isinstance(undo, int)
        )

    @property
    def height_durable(self) -> int:
        """Blocks up to this height survive any crash."""
        unsynced = [undo for undo in self._unsynced if isinstance(undo, int)]
        return min(unsynced, default=len(self._blocks) + 1) - 1

    def close(self) -> None:
        self.commit()

    def _operate(self) -> None:
        if self._fills_after is not None:
            self._fills_after -= 1
            if self._fills_after < 0 and self._unsynced:
                raise StoreFull("the simulated disk is full")
        if self._operations_left is not None:
            self._operations_left -= 1
            if self._operations_left <= 0:
                self._operations_left = None
                raise PowerLossError(self._on_crash)

    # --- nodes.ports.Store ---------------------------------------------------------------------

    def put_fact(self, fact: Durable) -> None:
        key = (fact.kind, fact.view, fact.seq)
        self._unsynced.append((key, self._facts.get(key)))
        super().put_fact(fact)
        self._operate()

    def forget(self, seq: int) -> None:
        for key, fact in self._facts.items():
            if key[0] in FORGETTABLE and key[2] <= seq:
                self._unsynced.append((key, fact))
        super().forget(seq)
        self._forgotten[1] = max(seq, self._forgotten[1])
        self._operate()

    def put_block(self, height: int, stored: Stored) -> None:
        super().put_block(height, stored)
        self._unsynced.append(height)
        self._operate()

    def commit(self) -> None:
        self.syncs += bool(self._unsynced)
        self._operate()
        self._unsynced.clear()
        self._forgotten[0] = self._forgotten[1]
        self._abstention[0] = self._abstention[1]
