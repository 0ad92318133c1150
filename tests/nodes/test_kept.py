"""Verified state is taken up again by its own process, and by nobody else's word."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

from chain.block import Block
from chain.errors import PeerFault
from chain.ledger.ledger import Ledger
from chain.ledger.operations import Revoke
from chain.proofs.client import LedgerCopy, SealedBlock
from gateway.bridge.block_store import BlockStore, BlockStoreError
from nodes.device.device import Device
from nodes.device.ledger_sync import LedgerSync
from nodes.edge_config import BrokerAddress, DeviceConfig, GatewaySecrets
from nodes.events import EventLog
from nodes.gateway.process import GatewayProcess
from nodes.kept import KeptState
from testbed.standing.direct_uplink import DirectUplink
from tests.chain.world import World
from tests.gateway.bridge.gate import Gate
from tests.gateway.broker.brokers import story, until
from tests.nodes.gateway_support import lonely_gateway
from tests.nodes.test_device import admitted, ask, make, rigged

NETWORK = bytes(32)


def copy() -> LedgerCopy:
    world = World()
    world.admit("phone")
    return LedgerCopy(world.genesis)


def kept(folder: Path, context: bytes = NETWORK) -> KeptState:
    return KeptState(folder / "copy.state", context)


def save(folder: Path, state: object) -> None:
    kept(folder).write(KeptState.pack(state))


def test_what_was_saved_is_loaded_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    assert kept(tmp_path).load() is None
    save(tmp_path, (copy(), {b"a": b"b"}))
    state, more = kept(tmp_path).load()
    assert isinstance(state, LedgerCopy)
    assert more == {b"a": b"b"}
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_another_network_s_state_is_ignored(tmp_path: Path) -> None:
    save(tmp_path, copy())
    assert kept(tmp_path, b"another").load() is None


@pytest.mark.parametrize("name", ["copy.state", "copy.state.key"])
def test_a_state_that_was_changed_or_cut_is_ignored(tmp_path: Path, name: str) -> None:
    save(tmp_path, copy())
    whole = (tmp_path / name).read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(
            whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :],
        )
        assert kept(tmp_path).load() is None
        (tmp_path / name).write_bytes(whole[:at])
        assert kept(tmp_path).load() is None
    (tmp_path / name).write_bytes(whole)
    assert kept(tmp_path).load() is not None


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("state", [Evil(), Path("x")], ids=["a command", "a class of others"])
def test_nothing_but_the_chain_s_classes_is_ever_made(tmp_path: Path, state: object) -> None:
    save(tmp_path, state)
    with pytest.raises(pickle.UnpicklingError, match="not part of a kept state"):
        kept(tmp_path).load()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[SealedBlock]:
    """The blocks that are verified from now on."""
    verified: list[SealedBlock] = []
    append = LedgerCopy.append

    def counting(self: LedgerCopy, sealed: SealedBlock) -> None:
        verified.append(sealed)
        append(self, sealed)

    monkeypatch.setattr(LedgerCopy, "append", counting)
    return verified


@pytest.mark.parametrize("bodies", [True, False])
def test_a_restart_verifies_only_what_is_above_the_kept_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bodies: bool
) -> None:
    monkeypatch.setattr("nodes.device.ledger_sync.KEEP_BLOCKS", 3)

    @story
    async def play(folder: Path) -> None:
        async with rigged(folder) as rig, admitted(rig) as (device, login):
            path = folder / "copy.sqlite"

            def start() -> LedgerSync:
                return LedgerSync(path, device, rig.events, bodies=bodies)

            async def grow(sync: LedgerSync, blocks: int) -> None:
                for _ in range(blocks):
                    await ask(rig, device, login)
                await sync.run(login, rig.uplink)

            sync = start()
            await grow(sync, 4)
            await grow(sync, 2)
            sync.close()
            verified = counted(monkeypatch)
            again = start()
            assert len(verified) == 2
            assert (again.copy.head, again.copy.height) == (sync.copy.head, sync.copy.height)
            assert again.enrolments == sync.enrolments
            await grow(again, 1)
            assert len(list(again.sealed())) == again.copy.height
            change(again, path)
            with pytest.raises((BlockStoreError, PeerFault)):
                list(again.sealed())
            again.close()

    play(tmp_path)


def change(sync: LedgerSync, path: Path) -> None:
    """A block below the kept state is changed on the disk."""
    head = list(sync.sealed())[1].head
    with closing(sqlite3.connect(path)) as database, database:
        (data,) = database.execute("SELECT data FROM blocks WHERE height = 2").fetchone()
        lie = data.replace(head, head[:-1] + bytes((head[-1] ^ 1,)))
        database.execute("UPDATE blocks SET data = ? WHERE height = 2", (lie,))


def test_a_gateway_takes_up_its_state_and_goes_on_as_if_it_had_read_every_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ledger, proofs and who may log in are the same as those of a gateway without a kept state."""
    world = World()
    gate = Gate(make(tmp_path / "gate"), world)
    first = gate.admit("first")
    save(tmp_path, gate.bridge.state)
    height = gate.bridge.follower.height
    gate.admit("second")
    world.add_replica(4)
    gate.seal()
    executed: list[Block] = []
    append = Ledger.append

    def counting(self: Ledger, block: Block, check_signatures: bool) -> None:
        executed.append(block)
        append(self, block, check_signatures)

    monkeypatch.setattr(Ledger, "append", counting)
    gate.restart(logins_done=height, kept=kept(tmp_path).load())
    assert len(executed) == world.ledger.height - height > 0
    gate.admit("third")
    world.run(world.signed(Revoke, first, target=first.node, reason="end"), first)
    gate.seal()

    plain = Gate(make(tmp_path / "plain"), world)
    plain.seal()
    assert gate.bridge.follower.head == plain.bridge.follower.head
    assert gate.bridge.follower.proofs.steps == plain.bridge.follower.proofs.steps
    identities = gate.bridge.follower.ledger.registry.identities
    assert identities == plain.bridge.follower.ledger.registry.identities
    assert gate.logins == plain.logins
    assert first.node.hex() not in gate.logins


def test_a_gateway_whose_store_lost_the_block_reads_all_again(tmp_path: Path) -> None:
    """Somebody removed it; or it came out of an older backup than the state."""
    world = World()
    gate = Gate(make(tmp_path / "gate"), world)
    gate.admit("first")
    state = gate.bridge.state
    (tmp_path / "gate" / "copy.sqlite").unlink()
    gate.restart(logins_done=world.ledger.height, kept=state)
    assert gate.bridge.follower.height == 0
    gate.seal()
    assert gate.bridge.follower.height == world.ledger.height


class Lab:
    """The files of a device and of a gateway of one chain, and starts of their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder, World()
        self.world.admit("phone")
        self.copies = [folder / "device.sqlite", folder / "copy.sqlite"]
        self.gateway_config = lonely_gateway(folder)
        self.events = EventLog(folder / "events.jsonl", "lab")

    def grow(self, blocks: int) -> None:
        """The broker is told at once of every login."""
        self.world.idle(blocks)
        for path in self.copies:
            with closing(BlockStore(path, self.world.network)) as store:
                for block in self.world.blocks[store.height :]:
                    seals = tuple(self.world.seals(block, 0, 1))
                    sealed = SealedBlock(head=block.head, seals=seals, records=block.records)
                    store.append(store.height + 1, sealed)
        self.logins_are_done(self.world.ledger.height)

    def logins_are_done(self, height: int) -> None:
        cursor = self.folder / "copy.logins.json"
        cursor.write_bytes(msgspec.json.encode({"height": height}))

    async def start_device(self) -> None:
        config = DeviceConfig(
            name="phone",
            genesis="",
            state=str(self.folder / "phone"),
            voucher="",
            broker=BrokerAddress("127.0.0.1", 1),
            go="",
        )
        uplink = DirectUplink(self.world.network.hex()[:16])
        with (
            closing(Device(config, self.world.genesis, "mobile", uplink, self.events)) as device,
            closing(LedgerSync(self.copies[0], device, self.events, bodies=True)) as sync,
        ):
            await sync.stored()
            assert sync.copy.height == self.world.ledger.height

    async def start_gateway(self) -> None:
        secrets = GatewaySecrets(gateway="one", admin="two", devices="5" * 64)
        genesis = self.world.genesis
        with ExitStack() as files:
            process = GatewayProcess(self.gateway_config, secrets, genesis, self.events, files)
            await process.keep()
            assert process.height == self.world.ledger.height

    async def starts(self, read: list[int]) -> list[int]:
        """How many blocks each start reads from the disk."""
        found = []
        for start in (self.start_device, self.start_gateway):
            read.clear()
            await start()
            found.append(len(read))
        return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each block that is read from a store. State is kept every 8 blocks."""
    monkeypatch.setattr("nodes.device.ledger_sync.KEEP_BLOCKS", 8)
    monkeypatch.setattr("nodes.gateway.process.KEEP_BLOCKS", 8)
    found: list[int] = []
    blocks = BlockStore.blocks

    def counted(self: BlockStore, start: int, stop: int) -> Iterator[SealedBlock]:
        for height, block in enumerate(blocks(self, start, stop), start):
            found.append(height)
            yield block

    monkeypatch.setattr(BlockStore, "blocks", counted)
    return found


@story
async def test_a_start_reads_as_many_blocks_whatever_the_age_of_the_ledger(
    tmp_path: Path, read: list[int]
) -> None:
    lab = Lab(tmp_path)
    for blocks in (20, 200):
        lab.grow(blocks)
        await lab.starts(read)
        lab.grow(5)
        assert await lab.starts(read) == [6, 6]  # the kept one, and those above it


@story
async def test_starts_that_follow_each_other_soon_do_not_read_ever_more(
    tmp_path: Path, read: list[int]
) -> None:
    """A process that never lives for as many blocks as are between two kept states."""
    lab = Lab(tmp_path)
    for _ in range(8):
        lab.grow(6)
        assert max(await lab.starts(read)) <= 1 + 8 + 6


@story
async def test_a_power_cut_leaves_the_block_that_the_kept_state_ends_with(
    tmp_path: Path, read: list[int]
) -> None:
    """What is lost then is the log of the store, which is not synced for each block."""
    lab = Lab(tmp_path)
    logs = [BlockStore(path, lab.world.network) for path in lab.copies]  # keep the logs in use
    lab.grow(20)
    await lab.starts(read)
    for path in lab.copies:
        assert Path(f"{path}-wal").exists()
        (tmp_path / "after").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "after")
    for each in logs:
        each.close()
    for path in lab.copies:
        (tmp_path / "after" / path.name).replace(path)
    assert await lab.starts(read) == [1, 1]


@story
async def test_a_gateway_whose_login_cursor_is_lost_goes_through_all_logins_again(
    tmp_path: Path, read: list[int]
) -> None:
    lab = Lab(tmp_path)
    lab.grow(20)
    await lab.starts(read)
    lab.logins_are_done(10)
    read.clear()
    await lab.start_gateway()
    assert len(read) == lab.world.ledger.height


@story
async def test_a_device_that_is_killed_while_it_fetches_has_kept_what_it_verified(
    tmp_path: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.bridge.block_store.RANGE_BLOCKS_MAX", 10)
    async with rigged(tmp_path) as rig, admitted(rig) as (device, login):
        rig.world.idle(60)
        rig.gate.seal()
        path = tmp_path / "copy.sqlite"
        sync = LedgerSync(path, device, rig.events, bodies=True)
        fetching = asyncio.ensure_future(sync.run(login, rig.uplink))
        await until(lambda: sync.copy.height >= 30)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        sync.close()
        read.clear()
        with closing(LedgerSync(path, device, rig.events, bodies=True)) as again:
            assert again.copy.head == sync.copy.head
        assert len(read) <= 1 + 2 * 10
