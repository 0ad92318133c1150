"""`testbed bench restart`: what a start costs, by the age of the ledger.

Each copy of the ledger is opened as its process opens it: a device's (`nodes.device.ledger_sync`,
also what `testbed device list` does) and a gateway's (`gateway.bridge.follower`). Once with the
verified state that it kept some blocks below, once from the genesis on. The blocks are empty:
records add to both.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from chain.genesis import Genesis, Member
from chain.keys import Es256, Es256Signer
from chain.ledger.ledger import Ledger
from chain.pbft.messages import Proposal
from chain.proofs.client import SealedBlock
from chain.proofs.proof import HeadSeal
from gateway.bridge.block_store import BlockStore
from gateway.bridge.follower import Follower
from nodes.device.device import Device
from nodes.device.ledger_sync import LedgerSync
from nodes.events import EventLog
from nodes.kept import KEEP_BLOCKS, KeptState
from testbed.bench.load import bench_policy
from testbed.errors import LabFault

__all__ = ["Start", "measure"]

REPLICAS = 4
BLOCK_US = 1_000_000  # between two blocks, in consensus time
TRIES = 3  # the fastest counts
ABOVE_BLOCKS = KEEP_BLOCKS // 2  # blocks above the kept state, on average


class Start(msgspec.Struct, frozen=True):
    """Seconds until a copy of this many blocks is open."""

    who: str
    blocks: int
    kept_s: float
    genesis_s: float


class _Keyless(msgspec.Struct, frozen=True):
    """The part of a device that its copy of the ledger needs to be opened."""

    genesis: Genesis


def measure(heights: list[int], say: Callable[[str], None]) -> list[Start]:
    """One entry for each kind of process and height, in order of height. Raises LabFault."""
    signers = [Es256Signer(ec.generate_private_key(ec.SECP256R1())) for _ in range(REPLICAS)]
    genesis = Genesis(
        name="restart",
        time_us=time.time_ns() // 1000,
        members=tuple(Member(n, each.public) for n, each in enumerate(signers)),
        policy=bench_policy([]),
    )
    found: list[Start] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "copy.sqlite"
        blocks = _blocks(genesis, signers)
        for height in sorted(heights):
            say(f"making {height} blocks")
            _grow(path, genesis, blocks, height - ABOVE_BLOCKS)
            _keep(path, genesis)
            _grow(path, genesis, blocks, height)
            say("opening them")
            for who, opened in (("device", _device), ("gateway", _gateway)):
                kept_s = min(_seconds(opened, path, genesis, height, True) for _ in range(TRIES))
                found.append(
                    Start(who, height, kept_s, _seconds(opened, path, genesis, height, False))
                )
    return found


def _blocks(genesis: Genesis, signers: list[Es256Signer]) -> Iterator[SealedBlock]:
    ledger = Ledger(genesis, Es256())
    weak = ledger.membership.quorum.weak
    while True:
        time_us = ledger.time_us + BLOCK_US
        block = ledger.execute(Proposal(ledger.height + 1, time_us, 0, ()), (), 0)
        seals = tuple(HeadSeal(n, signers[n].sign(block.head)) for n in range(weak))
        yield SealedBlock(head=block.head, seals=seals, records=block.records)


def _grow(path: Path, genesis: Genesis, blocks: Iterator[SealedBlock], height: int) -> None:
    with closing(BlockStore(path, genesis.network)) as store:
        while store.height < height:
            store.append(store.height + 1, next(blocks))
        store.checkpoint()


def _keep(path: Path, genesis: Genesis) -> None:
    """As a process that runs keeps its state now and then."""
    with _sync(path, genesis) as sync:
        asyncio.run(sync.stored())
    with closing(BlockStore(path, genesis.network)) as store:
        follower = Follower(genesis, Es256(), store)
        deque(follower.restore(), maxlen=0)
        _gateway_state(path, genesis).write(KeptState.pack(follower.state))


def _gateway_state(path: Path, genesis: Genesis) -> KeptState:
    return KeptState(path.with_name("gateway.state"), genesis.network)


@contextmanager
def _sync(path: Path, genesis: Genesis) -> Iterator[LedgerSync]:
    device = cast(Device, _Keyless(genesis))
    with (
        EventLog(path.with_name("events.jsonl"), "bench") as events,
        closing(LedgerSync(path, device, events, bodies=True)) as sync,
    ):
        yield sync


def _device(path: Path, genesis: Genesis, kept: bool) -> int:
    state = path.with_suffix(".state")
    if not kept:
        state.unlink()
    with _sync(path, genesis) as sync:
        return sync.copy.height


def _gateway(path: Path, genesis: Genesis, kept: bool) -> int:
    with closing(BlockStore(path, genesis.network)) as store:
        follower = Follower(genesis, Es256(), store)
        if kept:
            follower.resume(_gateway_state(path, genesis).load())
        deque(follower.restore(), maxlen=0)
        return follower.height


def _seconds(
    opened: Callable[[Path, Genesis, bool], int],
    path: Path,
    genesis: Genesis,
    height: int,
    kept: bool,
) -> float:
    start_s = time.perf_counter()
    found = opened(path, genesis, kept)
    if found != height:
        raise LabFault(f"a copy of {height} blocks opened at {found}")
    return time.perf_counter() - start_s
