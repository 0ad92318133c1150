"""A device's own copy of the ledger: fetched in ranges, verified block by block, kept up to date.

The source of the blocks is not trusted. A full copy executes every block, a heads-only copy checks
links and replicas' signatures. Verified blocks are stored. A restart takes up the verified state
that was kept (`nodes.kept`) and verifies only the blocks above it again, so its cost does not grow
with the ledger's age.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from chain.block import Head, genesis_head
from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.ledger import body_fault
from chain.ledger.statement import OK, decode_leaf
from chain.proofs.client import LedgerCopy, SealedBlock, decode_range
from gateway.bridge.block_store import BlockStore, BlockStoreError
from gateway.bridge.edge import SyncRequest, sync_codec
from gateway.bridge.parts import Assembly
from gateway.mqtt.client import BrokerUnavailableError
from nodes.device.device import Device, Uplink
from nodes.device.login import Login
from nodes.events import CountedEvents, EventLog
from nodes.kept import KEEP_BLOCKS, KeptState

__all__ = ["LedgerSync"]

ANSWER_S_MAX = 3.0
FOLLOW_PERIOD_S = 2.0  # between two requests for newer blocks


class LedgerSync:
    """`bodies` False: heads only. `keep_data_blocks` as in `BlockStore`. `enrolments` has the
    item of each admission, by node id. Raises BlockStoreError for a file of another network."""

    def __init__(
        self,
        path: Path,
        device: Device,
        events: EventLog,
        *,
        bodies: bool,
        keep_data_blocks: int | None = None,
    ) -> None:
        self._keep_data_blocks = keep_data_blocks
        self._device = device
        self._events = events
        self._bodies = bodies
        self._genesis_hash = digest(genesis_head(device.genesis.network, device.genesis.time_us))
        self._tries = 0  # requests in a row that brought nothing
        self._store = BlockStore(path, device.genesis.network, keep_data_blocks)
        kind = b"whole" if bodies else b"heads"
        self._bad = CountedEvents(events, "bad-blocks")
        self._kept = KeptState(path.with_suffix(".state"), device.genesis.network + kind)
        self._kept_height = 0
        self.copy = LedgerCopy(device.genesis, bodies=bodies)
        self.enrolments: dict[bytes, bytes] = {}
        self._resume()
        try:
            self.copy.learn(self._store.epochs)
            for block in self._store.blocks(self.copy.height + 1, self._store.height):
                self._append(block)
        except (PeerFault, BlockStoreError) as error:
            events.emit("copy-damaged", reason=str(error))
            self._begin_again(path)

    def _resume(self) -> None:
        """Takes up the state that was kept, if the store still has the block that it ends with."""
        if (kept := self._kept.load()) is None:
            return
        copy, enrolments = kept
        with contextlib.suppress(BlockStoreError):
            if [each.head for each in self._store.blocks(copy.height, copy.height)] == [copy.head]:
                self.copy, self.enrolments = copy, enrolments
                self._kept_height = copy.height

    def _append(self, block: SealedBlock) -> None:
        self.copy.append(block)
        for record in block.records or ():
            statement = decode_leaf(record.leaf)
            if statement.op == "enrol" and statement.status == OK:
                self.enrolments[statement.node] = record.item

    async def stored(self) -> None:
        """To be called after new blocks. Keeps the verified state now and then, but not on a full
        disk."""
        await asyncio.to_thread(self._store.checkpoint)
        if self.copy.height - self._kept_height >= KEEP_BLOCKS:
            self._kept_height = self.copy.height
            state = self._kept.pack((self.copy, self.enrolments))
            with contextlib.suppress(OSError, sqlite3.OperationalError):
                await asyncio.to_thread(self._store.sync)  # no power cut takes the block of `state`
                await asyncio.to_thread(self._kept.write, state)

    def _begin_again(self, path: Path) -> None:
        """A copy that does not verify any more is fetched again, from genesis."""
        self._store.close()
        self._kept.forget()
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            each.unlink(missing_ok=True)
        self._store = BlockStore(path, self._device.genesis.network, self._keep_data_blocks)
        self.copy = LedgerCopy(self._device.genesis, bodies=self._bodies)
        self.enrolments, self._kept_height = {}, 0

    def sealed(self, start: int = 1) -> Iterator[SealedBlock]:
        """The verified blocks from height `start` on. Raises BlockStoreError if a block in the
        store differs from what was verified, at the latest after the last one, because each links
        to the one below."""
        parent = self._genesis_hash if start == 1 else None
        for block in self._store.blocks(start, self.copy.height):
            head = Head.decode(block.head)
            body = block.block
            linked = parent in (None, head.parent)
            if not linked or (body is not None and body_fault(body, head) is not None):
                raise self._store.damaged(PeerFault("bad-link", f"height {head.height}"))
            parent = digest(block.head)
            yield block
        if parent != self.copy.head_hash and start <= self.copy.height:
            raise self._store.damaged(PeerFault("bad-link", f"height {self.copy.height}"))

    def block(self, height: int, head_hash: bytes) -> SealedBlock:
        """One verified block, as `sealed` gave it: its head has this hash. Raises as `sealed`."""
        for block in self._store.blocks(height, height):
            body, head = block.block, Head.decode(block.head)
            if digest(block.head) == head_hash and (body is None or body_fault(body, head) is None):
                return block
        raise self._store.damaged(PeerFault("bad-link", f"height {height}"))

    async def run(self, login: Login, uplink: Uplink) -> int:
        """Fetches until the gateway has no more; returns the height."""
        start_ns, before = time.monotonic_ns(), self.copy.height
        while not await self._fetch(login, uplink):
            await self.stored()
        self._events.emit(
            "ledger-verified",
            height=self.copy.height,
            blocks=self.copy.height - before,
            pruned=self.copy.pruned,
            took_ms=(time.monotonic_ns() - start_ns) / 1e6,
        )
        await self.stored()
        return self.copy.height

    async def follow(self, login: Login, uplink: Uplink) -> None:
        """Fetches the blocks of newer announced heads; until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_PERIOD_S)
            if self._device.announced > self.copy.height:
                await self._fetch(login, uplink)
                await self.stored()

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
            self._events.emit("no-blocks", height=before)  # none came, or none was valid
        return False

    async def _take_answer(self) -> bool:
        """Takes one range that brings blocks. True if there are no more. Answers without new blocks
        are passed over: a gateway that answers first may lag behind what is announced."""
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
                self._bad.add(fault.code, reason=str(fault))
                continue
            _ = self._device.head  # a head that nobody signed announces nothing
            if self.copy.height >= max(part.tip, self._device.announced):
                return True
            if self.copy.height > before:
                return False

    async def _take(self, data: bytes) -> None:
        blocks = decode_range(data)
        self.copy.learn(blocks.epochs or ())
        self._store.keep_epochs(self.copy.steps)
        for height, block in enumerate(blocks.blocks, blocks.start):
            if height == self.copy.height + 1:
                self._append(block)
                self._store.append(height, block)
            await asyncio.sleep(0)  # a block's signatures take a millisecond

    def close(self) -> None:
        self._store.close()
