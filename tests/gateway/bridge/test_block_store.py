"""Final blocks on disk: found again, handed on in bounds, and damage is said and not swallowed."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chain.errors import Misuse
from chain.proofs.client import SealedBlock
from gateway.bridge.block_store import BlockStore, BlockStoreError
from gateway.bridge.follower import Follower
from tests.chain.world import World


def filled(path: Path, world: World) -> BlockStore:
    device = world.admit("phone")
    for _ in range(5):
        world.run(world.data(device), device)
    store = BlockStore(path, world.network)
    follower = Follower(world.genesis, world.scheme, store)
    for block in world.blocks:
        for replica in (0, 1):
            follower.feed(world.seal(replica, block))
    assert store.height == len(world.blocks)
    return store


def test_blocks_and_records_are_found_after_a_restart(tmp_path: Path) -> None:
    world = World()
    filled(tmp_path / "copy", world).close()
    store = BlockStore(tmp_path / "copy", world.network)
    follower = Follower(world.genesis, world.scheme, store)
    settled = list(follower.restore())
    assert [each.height for each in settled] == list(range(1, 7))
    assert follower.ledger.head_hash == world.ledger.head_hash
    request = settled[3].statements[0].request
    block, position = follower.find(request)
    assert block.statements[position].request == request
    assert not follower.is_final(bytes(32))


def test_a_range_holds_as_many_blocks_as_fit_and_at_least_one(tmp_path: Path) -> None:
    store = filled(tmp_path / "copy", World())
    assert len(store.range(1, 1, bodies=True)) == 1
    blocks = store.range(2, 3000, bodies=True)
    assert len(blocks) < 5
    assert sum(map(len, blocks)) <= 3000
    assert len(store.range(2, 3000, bodies=False)) == 5
    assert store.range(100, 3000, bodies=True) == []


def test_a_full_disk_is_said_with_the_name_of_the_file(
    tmp_path: Path, connections: list[sqlite3.Connection]
) -> None:
    """The message does not advise to delete a good file."""
    world = World()
    store = filled(tmp_path / "copy", world)
    connections[0].execute("PRAGMA max_page_count = 1")  # as many as there are
    block = world.blocks[0]
    with pytest.raises(BlockStoreError, match=r"copy: .*full; free some space"):
        store.append(7, SealedBlock(head=block.head, seals=()), [bytes(10_000)])
    assert store.height == 6
    store.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(BlockStoreError, match=r"copy: .*; free some space"):
            BlockStore(tmp_path / "copy", world.network)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_blocks_come_in_order(tmp_path: Path) -> None:
    world = World()
    store = filled(tmp_path / "copy", world)
    with pytest.raises(Misuse):
        store.append(9, SealedBlock(head=world.blocks[0].head, seals=()))


def test_a_file_of_another_network_or_of_rubbish_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "copy", World()).close()
    with pytest.raises(BlockStoreError, match="another network"):
        BlockStore(tmp_path / "copy", bytes(32))
    (tmp_path / "rubbish").write_bytes(b"no database" * 1000)
    with pytest.raises(BlockStoreError, match="rubbish"):
        BlockStore(tmp_path / "rubbish", bytes(32))


def test_a_block_that_was_changed_on_disk_is_named_at_the_restart(tmp_path: Path) -> None:
    world = World()
    filled(tmp_path / "copy", world).close()
    with closing(sqlite3.connect(tmp_path / "copy")) as database, database:
        (data,) = database.execute("SELECT data FROM blocks WHERE height = 3").fetchone()
        database.execute("UPDATE blocks SET data = ? WHERE height = 3", (data[:-9] + bytes(9),))
    store = BlockStore(tmp_path / "copy", world.network)
    with pytest.raises(BlockStoreError, match="copy"):
        list(Follower(world.genesis, world.scheme, store).restore())
