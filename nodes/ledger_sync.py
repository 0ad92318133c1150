"""A device's own copy of the ledger: fetched in ranges, every block verified and executed.

Whoever hands over the blocks is not trusted. What was verified is stored and, after a restart,
verified again from the store, so that only what is new is asked for.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from chain.client import LedgerCopy, decode_range
from chain.errors import PeerFault
from chain.genesis import Genesis
from gateway.block_store import BlockStore
from gateway.edge import Part, SyncRequest, sync_codec
from gateway.parts import Assembly
from nodes.device import Uplink
from nodes.events import EventLog
from nodes.login import Login

__all__ = ["LedgerSync"]

ANSWER_S_MAX = 3.0


class LedgerSync:
    """`parts` is where the device puts the pieces that arrive."""

    def __init__(
        self, path: Path, genesis: Genesis, parts: asyncio.Queue[Part], events: EventLog
    ) -> None:
        self._store = BlockStore(path, genesis.network)
        self._parts = parts
        self._events = events
        self.copy = LedgerCopy(genesis)
        for block in self._store.blocks(1, self._store.height):
            self.copy.append(block)

    async def run(self, login: Login, uplink: Uplink) -> int:
        """Fetch until the gateway has no more; answers the height."""
        start_ns, before = time.monotonic_ns(), self.copy.height
        while True:
            request = SyncRequest(start=self.copy.height + 1, bodies=True)
            topic, payload = uplink.wrap(login.me, "sync", sync_codec.encode(request))
            await login.client.publish(topic, payload)
            tip = await self._take_answer()
            if tip is not None and self.copy.height >= tip:
                break
        self._events.emit(
            "ledger-verified",
            height=self.copy.height,
            blocks=self.copy.height - before,
            took_ms=(time.monotonic_ns() - start_ns) / 1e6,
        )
        return self.copy.height

    async def _take_answer(self) -> int | None:
        """The gateway's tip after one range was taken; None if it did not come in time."""
        assembly = Assembly()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                while True:
                    part = await self._parts.get()
                    data = assembly.add(part)
                    if data is not None:
                        self._take(data)
                        return part.tip
        except TimeoutError:
            return None
        except PeerFault as fault:
            self._events.emit("bad-blocks", reason=str(fault))
            return None

    def _take(self, data: bytes) -> None:
        blocks = decode_range(data)
        for height, block in enumerate(blocks.blocks, blocks.start):
            if height == self.copy.height + 1:
                self.copy.append(block)
                self._store.append(height, block)
