"""The driver's ports to the world: a clock, timers, a wire, a store.

The real ones are `nodes.replica.clock`, `nodes.wire.tls_wire` and `nodes.replica.sqlite_store`;
the simulator has its own. All are constructor arguments of `nodes.replica.driver.Driver`; real ones
are built in `__main__`-level code only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from chain.block import Block
from chain.pbft.effects import Durable, FactKind

__all__ = [
    "FORGETTABLE",
    "PRUNE_BLOCKS_MAX",
    "Clock",
    "Events",
    "Party",
    "Store",
    "StoreFull",
    "Stored",
    "Timers",
    "Wire",
]

# The other end of a link: a replica by its id, a gateway by the name that our config gives it.
Party = int | str

# Kinds of facts that `Forget` trims; the others are kept.
FORGETTABLE: tuple[FactKind, ...] = ("proposal", "prepared")
# In one call, so that no turn takes long. With a call per block it catches up on an older ledger.
PRUNE_BLOCKS_MAX = 4


class StoreFull(Exception):
    """The disk took no more. Nothing of the failed transaction is there; stop voting."""


class Clock(Protocol):
    def now_us(self) -> int:
        """Wall time, microseconds since 1970."""

    def monotonic_us(self) -> int:
        """For durations: microseconds since some moment, never set back."""


class Timers(Protocol):
    """One timer per name; when it fires the host gets `TimerFired`."""

    def set(self, name: str, delay_us: int) -> None:
        """(Re)arms."""

    def cancel(self, name: str) -> None:
        """Disarms; harmless if it was not armed."""


class Wire(Protocol):
    """Links to parties. Never blocks: frames that a slow party does not take are dropped, oldest
    first; after a STATUS message they are sent again."""

    def send(self, party: Party, frame: bytes) -> None:
        """Queues one frame; it may leave at any time after this call."""

    def congested(self, party: Party) -> bool:
        """True while the party takes no more; producers that can wait should wait."""


class Stored(NamedTuple):
    """A block as this replica keeps it: with its own signature over the head."""

    block: Block
    signature: bytes


class Store(Protocol):
    """Facts and blocks. Writes become durable together at `commit`, reads see all writes."""

    def facts(self) -> Sequence[Durable]:
        """Every fact, in the order of (kind, view, seq)."""

    def fact(self, kind: FactKind, view: int, seq: int) -> Durable | None:
        """The fact with this kind, view and sequence number."""

    def put_fact(self, fact: Durable) -> None:
        """Replaces the fact of the same kind, view and seq."""

    def forget(self, seq: int) -> None:
        """Drops "proposal" and "prepared" facts with a sequence number up to `seq`."""

    def put_block(self, height: int, stored: Stored) -> None:
        """Heights follow each other from 1; anything else is Misuse."""

    def prune(self, stop: int) -> None:
        """Removes the items of data (`chain.ledger.pruning`) from the next blocks up to `stop`, at
        most PRUNE_BLOCKS_MAX of them."""

    @property
    def pruned(self) -> int:
        """The height up to which blocks are pruned."""

    @property
    def height(self) -> int:
        """The height of the last block, 0 if there is none."""

    def blocks(self, start: int, stop: int) -> Iterator[Stored]:
        """Heights start..stop (inclusive) as far as they are there, in order."""

    def heads(self, start: int, stop: int) -> Sequence[bytes]:
        """Encoded heads of the same range."""

    def stable_from(self, seq: int) -> Durable | None:
        """The "stable" fact with the least sequence number >= seq."""

    def commit(self) -> None:
        """Everything written so far is durable when this returns. Raises StoreFull."""

    def close(self) -> None:
        """Commits the waiting writes."""


class Events(Protocol):
    """The log of facts for people and timing; see `nodes.events`."""

    def emit(self, event: str, **fields: object) -> None:
        """One line; must not block."""
