"""The seam `store` of a replica: while an order is in force, its disk is full or slow."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from chain.pbft.effects import Durable, FactKind
from nodes.ports import Store, Stored, StoreFull

__all__ = ["COMMIT_DELAY_MS_MAX", "StoreOrder", "StoreSeam"]

COMMIT_DELAY_MS_MAX = 60_000


class StoreOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`full`: nothing can be written. `commit_delay_ms`: how much longer a commit takes."""

    full: bool = False
    commit_delay_ms: Annotated[int, msgspec.Meta(ge=0, le=COMMIT_DELAY_MS_MAX)] = 0


class StoreSeam(Store):
    """Wraps the real store. Without an order all calls pass unchanged; several orders add up."""

    def __init__(self, store: Store, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._sleep = sleep
        self._full = False
        self._delay_s = 0.0
        self._written = False

    def take(self, orders: Mapping[str, StoreOrder]) -> None:
        """Replaces the orders in force."""
        self._full = any(order.full for order in orders.values())
        self._delay_s = sum(order.commit_delay_ms for order in orders.values()) / 1000

    def put_fact(self, fact: Durable) -> None:
        self._write()
        self._store.put_fact(fact)

    def forget(self, seq: int) -> None:
        self._write()
        self._store.forget(seq)

    def put_block(self, height: int, stored: Stored) -> None:
        self._write()
        self._store.put_block(height, stored)

    def prune(self, stop: int) -> None:
        self._write()
        self._store.prune(stop)

    def _write(self) -> None:
        if self._full:
            # The same error as a full disk's, so that the process waits for room (`nodes.process`).
            raise StoreFull("the store is full by order") from OSError(errno.ENOSPC, "full")
        self._written = True

    def commit(self) -> None:
        if self._written and self._delay_s:
            self._sleep(self._delay_s)
        self._written = False
        self._store.commit()

    def facts(self) -> Sequence[Durable]:
        return self._store.facts()

    def fact(self, kind: FactKind, view: int, seq: int) -> Durable | None:
        return self._store.fact(kind, view, seq)

    @property
    def pruned(self) -> int:
        return self._store.pruned

    @property
    def height(self) -> int:
        return self._store.height

    def blocks(self, start: int, stop: int) -> Iterator[Stored]:
        return self._store.blocks(start, stop)

    def heads(self, start: int, stop: int) -> Sequence[bytes]:
        return self._store.heads(start, stop)

    def stable_from(self, seq: int) -> Durable | None:
        return self._store.stable_from(seq)

    def close(self) -> None:
        self._store.close()
