"""Verified state is taken up again by its own process, and by nobody else's word."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from chain.block import Block
from chain.errors import PeerFault
from chain.ledger.ledger import Ledger
from chain.ledger.operations import Revoke
from chain.proofs.client import LedgerCopy, SealedBlock
from gateway.bridge.block_store import BlockStoreError
from nodes.device.ledger_sync import LedgerSync
from nodes.kept import KeptState
from tests.chain.world import World
from tests.gateway.bridge.gate import Gate
from tests.gateway.broker.brokers import story
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
    with pytest.raises(pickle.UnpicklingError, match="no part of a kept state"):
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
            change(again)
            with pytest.raises((BlockStoreError, PeerFault)):
                list(again.sealed())
            again.close()

    play(tmp_path)


def change(sync: LedgerSync) -> None:
    """A block below the kept state is changed on the disk."""
    head = list(sync.sealed())[1].head
    with sync._store._db as database:
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
    height = gate.bridge.chain.height
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
    assert gate.bridge.chain.head == plain.bridge.chain.head
    assert gate.bridge.chain.proofs.steps == plain.bridge.chain.proofs.steps
    identities = gate.bridge.chain.ledger.registry.identities
    assert identities == plain.bridge.chain.ledger.registry.identities
    assert gate.logins == plain.logins
    assert first.node.hex() not in gate.logins


def test_a_gateway_whose_store_lost_the_block_reads_all_again(tmp_path: Path) -> None:
    """The store is not synced for each block; the kept state is."""
    world = World()
    gate = Gate(make(tmp_path / "gate"), world)
    gate.admit("first")
    state = gate.bridge.state
    (tmp_path / "gate" / "copy.sqlite").unlink()
    gate.restart(kept=state)
    assert gate.bridge.chain.height == 0
    gate.seal()
    assert gate.bridge.chain.height == world.ledger.height
