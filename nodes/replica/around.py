"""Wrappers around the parts of a replica. An honest replica has none."""

from __future__ import annotations

import asyncio

from chain.keys import Signer
from nodes.ports import Clock, Events, Store, Wire
from nodes.replica.driver import Rewrite
from nodes.replica.service import Service

__all__ = ["Around"]


class Around:
    """Each method returns the replacement of a part; here, the part itself."""

    def wire(self, wire: Wire, signer: Signer, events: Events) -> Wire:
        return wire

    def store(self, store: Store) -> Store:
        return store

    def clock(self, clock: Clock) -> Clock:
        return clock

    def effects(self, service: Service, signer: Signer, events: Events) -> Rewrite | None:
        """Gets every list of effects; None leaves them alone without a call."""
        return None

    async def follow(self, events: Events) -> None:
        """Runs beside the replica until it is cancelled."""
        await asyncio.Event().wait()
