"""The seam `relay` of an environmental device: faults in the messages that it carries.

While an order is in force, it drops, alters or delays them. Its own messages pass.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Annotated

import msgspec

from gateway.bridge.edge import stamped_codec
from gateway.hops import NO_TRACE, Trace
from nodes.device.environment import RelayUplink
from nodes.device.login import Login
from nodes.events import EventLog

__all__ = ["SEAM", "RelayOrder", "RelayTrick", "SwitchedRelay"]

SEAM = "relay"


class RelayTrick(StrEnum):
    """A fault in the messages that a relay carries."""

    DROP = "drop"
    ALTER = "alter"
    DELAY = "delay"


class RelayOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`share` of the messages, `delay_ms` with "delay"."""

    trick: RelayTrick
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 0
    seed: int = 0


class SwitchedRelay(RelayUplink):
    """Counts of what it did are logged as "relay-acts" with each message. Of several orders the
    newest counts."""

    def __init__(self, net: str, events: EventLog, trace: Trace = NO_TRACE) -> None:
        super().__init__(net, events, trace)
        self._acts: Counter[str] = Counter()
        self._wanted: RelayOrder | None = None
        self._rng = Random(0)  # noqa: S311 - repeatable on purpose

    def take(self, orders: Mapping[str, RelayOrder]) -> None:
        """Replaces the orders in force; the newest is last."""
        self._wanted = next(reversed(list(orders.values())), None)
        if self._wanted is not None:
            self._rng = Random(self._wanted.seed)  # noqa: S311

    async def carry(self, login: Login, topic: str, payload: bytes) -> None:
        wanted = self._wanted
        if wanted is None or self._rng.random() >= wanted.share:
            await super().carry(login, topic, payload)
            return
        self._acts[wanted.trick] += 1
        self._events.emit("relay-acts", **self._acts)
        if wanted.trick is RelayTrick.DROP:
            return
        if wanted.trick is RelayTrick.DELAY:
            await asyncio.sleep(wanted.delay_ms / 1000)
        elif wanted.trick is RelayTrick.ALTER:
            payload = self._altered(payload)
        await super().carry(login, topic, payload)

    def _altered(self, payload: bytes) -> bytes:
        """One bit of the device's message is flipped; the relay's own stamp stays right."""
        stamped = stamped_codec.decode(payload)
        body = bytearray(stamped.body)
        if body:
            body[self._rng.randrange(len(body))] ^= 1 << self._rng.randrange(8)
        return stamped_codec.encode(msgspec.structs.replace(stamped, body=bytes(body)))
