"""`testbed bench growth`: how a replica's and a gateway's files grow, with and without pruning.

The chain is made here (`restart`). First devices are admitted, then each block holds one reading,
then come empty blocks, as an idle chain makes them. The stores are those of the processes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from chain.block import Block
from chain.genesis import Consensus
from chain.keys import SIGNATURE_BYTES
from chain.proofs.client import SealedBlock
from gateway.bridge.block_store import BlockStore
from nodes.ports import Stored
from nodes.replica.sqlite_store import SqliteStore
from testbed.bench.restart import MadeChain

__all__ = ["YEAR_S", "DiskGrowth", "measure"]

YEAR_S = 365 * 86_400
BLOCKS = 2_000  # counted of each kind; as many before them are not counted
KEEP_BLOCKS = 256

Who = Literal["replica", "gateway"]
Numbered = tuple[SealedBlock, list[bytes]]  # a block and its request ids


class DiskGrowth(msgspec.Struct, frozen=True):
    """Bytes on the disk per block: `record` for a block with one reading, `record_pruned` for the
    same once it is pruned, `empty` for a block without records."""

    who: Who
    record: float
    record_pruned: float
    empty: float

    def year_bytes(self, every_s: float, *, pruned: bool) -> float:
        """Bytes per year if the whole lab makes one reading every `every_s` seconds, each in a
        block of its own, and a heartbeat whenever the chain would idle longer than its interval."""
        readings = YEAR_S / every_s
        heartbeats = max(0.0, YEAR_S * 1e6 / Consensus().heartbeat_us - readings)
        return readings * (self.record_pruned if pruned else self.record) + heartbeats * self.empty


def measure(payload: int, say: Callable[[str], None]) -> list[DiskGrowth]:
    """Measures a replica and a gateway (a device's whole copy is like a gateway's)."""
    chain = MadeChain(bytes(payload))
    say(f"making {4 * BLOCKS} blocks")
    readings = [(block, [request]) for block, request in itertools.islice(chain.blocks, 2 * BLOCKS)]
    empty = [(chain.sealed(), list[bytes]()) for _ in range(2 * BLOCKS)]
    network, genesis = chain.genesis.network, chain.genesis.encode()
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        for who in ("replica", "gateway"):
            bytes_each = []
            for keep in (None, KEEP_BLOCKS):
                path = Path(directory) / f"{who}-{keep}.db"
                say(f"storing them: {who}, {'whole' if keep is None else 'pruned'}")
                sizes = []
                parts = (readings[:BLOCKS], readings[BLOCKS:], empty[:BLOCKS], empty[BLOCKS:])
                height = 0
                for part in parts:
                    if who == "replica":
                        with closing(SqliteStore(path, genesis, 0)) as store:
                            _as_replica(store, height, part, keep)
                    else:
                        with closing(BlockStore(path, network, keep)) as copy:
                            _as_gateway(copy, height, part)
                    height += len(part)
                    sizes.append(path.stat().st_size)
                bytes_each.append((sizes[1] - sizes[0], sizes[3] - sizes[2]))
            (whole, idle), (pruned, _) = bytes_each
            found.append(DiskGrowth(who, whole / BLOCKS, pruned / BLOCKS, idle / BLOCKS))
    return found


def _as_replica(
    store: SqliteStore, height: int, part: Iterable[Numbered], keep: int | None
) -> None:
    for number, (sealed, _) in enumerate(part, height + 1):
        block = Block(sealed.head, sealed.records or ())
        store.put_block(number, Stored(block, bytes(SIGNATURE_BYTES)))
        if keep is not None:
            store.prune(number - keep)
        if number % 64 == 0:
            store.commit()


def _as_gateway(store: BlockStore, height: int, part: Iterable[Numbered]) -> None:
    for number, (sealed, requests) in enumerate(part, height + 1):
        store.append(number, sealed, requests)
