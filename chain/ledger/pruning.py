"""Pruning of old blocks, and how pruned blocks are still verified from the genesis.

A record of data keeps its leaf and loses its item: the payload and the device's signature. The leaf
has everything that such a record does to the state (whose counter rises, and how far), and the head
commits to the leaf. So the head proves a pruned block, and it is executed like any other. Such
blocks are enough to bring up a replica that lost everything. Every other record stays whole.

The host decides how old a block must be. `pbft.transfer` and `proofs.client` decide which sources
to believe.
"""

from __future__ import annotations

from chain.block import Block, Record
from chain.errors import PeerFault
from chain.ledger.envelope import Opened
from chain.ledger.item import request_of
from chain.ledger.operations import Data
from chain.ledger.statement import decode_leaf
from chain.pbft.state_machine import VerifiedRequest

__all__ = ["is_data", "prune", "read_pruned"]

_DATA = b"\x62op\x64data"  # the first field of the leaf of a data record, after the map's head


def is_data(leaf: bytes) -> bool:
    """Whether this leaf is a data record's. A head must commit to it: then it has its one
    encoding."""
    return leaf[1 : 1 + len(_DATA)] == _DATA


def prune(block: Block) -> Block:
    """`block` without the items that may be removed; `block` itself if there are none."""
    if not any(record.item and is_data(record.leaf) for record in block.records):
        return block
    records = (
        Record(record.leaf, b"") if is_data(record.leaf) else record for record in block.records
    )
    return Block(block.head, tuple(records))


def read_pruned(leaf: bytes, network: bytes) -> VerifiedRequest:
    """The request of a pruned record as far as it can be known: its payload is empty here.

    Raises PeerFault: "bad-item" if it is not a data record, "wrong-network", or what `decode_leaf`
    raises.
    """
    statement = decode_leaf(leaf)
    if statement.network != network:
        raise PeerFault("wrong-network", "recorded in another network")
    if statement.op != "data" or statement.counter is None or statement.service is None:
        raise PeerFault("bad-item", "the item is missing, and this is not a data record")
    operation = Data(
        network=network,
        node=statement.node,
        counter=statement.counter,
        service=statement.service,
        board=statement.board,
        payload=b"",
    )
    opened = Opened(operation, statement.key or b"", statement.request)
    return request_of(b"", opened, 0, [])
