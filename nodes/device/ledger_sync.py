"""A device's own copy of the ledger: fetched in ranges, verified block by block, kept up to date.

Whoever hands over the blocks is not trusted. What was verified is stored and, after a restart,
verified again from the store, so that only what is new is asked for. A full copy executes every
block, a heads-only copy checks links and replicas' signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from chain.errors import PeerFault
from chain.proofs.client import LedgerCopy, SealedBlock, decode_range
from gateway.bridge.block_store import BlockStore, BlockStoreError
from gateway.bridge.edge import SyncRequest, sync_codec
from gateway.bridge.parts import Assembly
from gateway.mqtt.client import BrokerUnavailableError
from nodes.device.device import Device, Uplink
from nodes.device.login import Login
from nodes.events import EventLog

__all__ = ["LedgerSync"]

ANSWER_S_MAX = 3.0
FOLLOW_PERIOD_S = 2.0  # between two requests for newer blocks


class LedgerSync:
    """`bodies` False: heads only. Raises BlockStoreError for a file of another network."""

    def __init__(self, path: Path, device: Device, events: EventLog, *, bodies: bool) -> None:
        self._device = device
        self._events = events
        self._bodies = bodies
        self._tries = 0  # requests in a row that brought nothing
        self._store = BlockStore(path, device.genesis.network)
        self.copy = LedgerCopy(device.genesis, bodies=bodies)
        try:
            for block in self._store.blocks(1, self._store.height):
                self.copy.append(block)
        except (PeerFault, BlockStoreError) as error:
            events.emit("copy-damaged", reason=str(error))
            self._begin_anew(path)

    def _begin_anew(self, path: Path) -> None:
        """What does not verify any more is fetched again, from genesis."""
        self._store.close()
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            each.unlink(missing_ok=True)
        self._store = BlockStore(path, self._device.genesis.network)
        self.copy = LedgerCopy(self._device.genesis, bodies=self._bodies)

    def sealed(self) -> Iterator[SealedBlock]:
        """The verified blocks, from height 1 on."""
        return self._store.blocks(1, self.copy.height)

    async def run(self, login: Login, uplink: Uplink) -> int:
        """Fetch until the gateway has no more; answers the height."""
        start_ns, before = time.monotonic_ns(), self.copy.height
        while not await self._fetch(login, uplink):
            pass
        self._events.emit(
            "ledger-verified",
            height=self.copy.height,
            blocks=self.copy.height - before,
            took_ms=(time.monotonic_ns() - start_ns) / 1e6,
        )
        await asyncio.to_thread(self._store.checkpoint)
        return self.copy.height

    async def follow(self, login: Login, uplink: Uplink) -> None:
        """Fetches what newer heads announce; until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_PERIOD_S)
            if self._device.announced > self.copy.height:
                await self._fetch(login, uplink)
                await asyncio.to_thread(self._store.checkpoint)

    async def _fetch(self, login: Login, uplink: Uplink) -> bool:
        """Asks for one range and takes it. True if there is no more."""
        while not self._device.parts.empty():
            self._device.parts.get_nowait()  # of an answer that came too late
        request = SyncRequest(start=self.copy.height + 1, bodies=self._bodies)
        topic, payload = uplink.wrap(login.me, "sync", sync_codec.encode(request))
        if self._tries:
            payload = uplink.again(payload, self._tries)
        before = self.copy.height
        with contextlib.suppress(TimeoutError, BrokerUnavailableError):
            async with asyncio.timeout(ANSWER_S_MAX):
                await login.client.publish(topic, payload)
                if await self._take_answer():
                    self._tries = 0
                    return True
        self._tries = 0 if self.copy.height > before else self._tries + 1
        if self._tries:
            self._events.emit("no-blocks", height=before)  # none came, or none that hold
        return False

    async def _take_answer(self) -> bool:
        """Takes one range that brings blocks. True if there are no more: of several gateways the
        first to answer may lag behind what is announced."""
        assembly = Assembly()
        before = self.copy.height
        while True:
            part = await self._device.parts.get()
            try:
                data = assembly.add(part)
                if data is None:
                    continue
                await self._take(data)
            except PeerFault as fault:
                self._events.emit("bad-blocks", reason=str(fault))
                continue
            _ = self._device.head  # a head that nobody signed announces nothing
            if self.copy.height >= max(part.tip, self._device.announced):
                return True
            if self.copy.height > before:
                return False

    async def _take(self, data: bytes) -> None:
        blocks = decode_range(data)
        self.copy.take(msgspec.structs.replace(blocks, blocks=()))  # the membership changes
        for height, block in enumerate(blocks.blocks, blocks.start):
            if height == self.copy.height + 1:
                self.copy.append(block)
                self._store.append(height, block)
            await asyncio.sleep(0)  # a block's signatures take a millisecond

    def close(self) -> None:
        self._store.close()
