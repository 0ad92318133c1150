"""Names the wrong field of a stored block that is known to be wrong.

If the head has the Merkle root of the stored statements, an item or a statement is wrong. Otherwise
the statements are computed from the items and compared with the stored ones. Two fields cannot be
computed (time and view of a block without records): for these, a search looks for one changed byte
that fixes the block.
"""

from __future__ import annotations

from collections.abc import Callable

from chain.block import HEAD_BYTES, Block, Head
from chain.errors import PeerFault
from chain.keys import Scheme, digest
from chain.ledger.item import open_item
from chain.ledger.ledger import Ledger
from chain.ledger.statement import decode_leaf
from chain.merkle import leaf_hash, root
from chain.pbft.messages import Proposal
from chain.pbft.state_machine import VerifiedRequest

__all__ = ["HEAD_FIELDS", "wrong_field", "wrong_signature"]

# Name, offset and bytes of each field of a head (chain.block).
HEAD_FIELDS = (
    ("tag", 0, 12),
    ("network", 12, 32),
    ("height", 44, 8),
    ("time_us", 52, 8),
    ("parent", 60, 32),
    ("parent_root", 92, 32),
    ("root", 124, 32),
    ("epoch", 156, 4),
    ("view", 160, 4),
    ("count", 164, 4),
)
_FREE_FIELDS = ("time_us", "view")


def wrong_field(block: Block, ledger: Ledger, scheme: Scheme, fault: PeerFault) -> tuple[str, str]:
    """Which field of `block` made `ledger.append` raise `fault`, and in what way.

    `ledger` is at the block before. It cannot be used afterwards.
    """
    try:
        head = Head.decode(block.head)
    except PeerFault:
        wrong = "tag" if len(block.head) == HEAD_BYTES else "length"
        return f"head.{wrong}", f"{len(block.head)} bytes, or another tag"
    if fault.code == "bad-link":
        field = str(fault).partition(": ")[2].partition(" of height")[0]
        return f"head.{field}", "does not follow from the blocks before"
    leaves_root = root([leaf_hash(record.leaf) for record in block.records])
    if head.count != len(block.records):
        if leaves_root == head.root:
            return "head.count", f"says {head.count}, but the block has {len(block.records)}"
        return "records", f"{len(block.records)} of {head.count}"
    if leaves_root == head.root:
        return _below_its_root(block, head, ledger, scheme, fault)
    return _beside_its_root(block, head, leaves_root, ledger, scheme)


def _below_its_root(
    block: Block, head: Head, ledger: Ledger, scheme: Scheme, fault: PeerFault
) -> tuple[str, str]:
    """The head commits to these statements, so an item is wrong, or its statement."""
    times = set()
    for index, record in enumerate(block.records):
        opened = _open(record.item, ledger, scheme)
        why = f": {opened}" if isinstance(opened, PeerFault) else ""
        try:
            statement = decode_leaf(record.leaf)
        except PeerFault as bad:
            return f"record {index} leaf", str(bad)
        if digest(record.item) != statement.item:
            return f"record {index} item", f"its SHA-256 is not the one in its statement{why}"
        if why:
            return f"record {index} item", why.removeprefix(": ")
        times.add(statement.time_us)
    if len(times) == 1 and head.time_us not in times:
        return "head.time_us", "is not the time in the records' statements"
    field = str(fault).partition(": ")[2].partition(" of height")[0]
    return field.replace("statement", "leaf"), "is not the result of executing the block"


def _beside_its_root(
    block: Block, head: Head, leaves_root: bytes, ledger: Ledger, scheme: Scheme
) -> tuple[str, str]:
    """Head and statements disagree; the statements computed from the items show which is wrong."""
    requests = []
    for index, record in enumerate(block.records):
        opened = _open(record.item, ledger, scheme)
        if isinstance(opened, PeerFault):
            return f"record {index} item", f"{opened}; the Merkle root differs too"
        requests.append(opened)
    items = tuple(record.item for record in block.records)
    proposal = Proposal(seq=head.height, time_us=head.time_us, view=head.view, items=items)
    made = ledger.execute(proposal, requests, head.epoch)
    if Head.decode(made.head).root == leaves_root:
        return "head.root", "is not the Merkle root of the records"
    for index, (mine, theirs) in enumerate(zip(made.records, block.records, strict=True)):
        if mine.leaf != theirs.leaf:
            return f"record {index} leaf", "is not the result of executing its item"
    return "head.root", "is not the Merkle root of the records"


def _open(item: bytes, ledger: Ledger, scheme: Scheme) -> VerifiedRequest | PeerFault:
    try:
        return open_item(item, ledger.network, ledger.membership, scheme)
    except PeerFault as fault:
        return fault


def wrong_signature(
    head: bytes, next_parent: bytes | None, verify: Callable[[bytes], bool]
) -> tuple[str, str]:
    """The block itself is valid, but its replica's signature over the head is not. Returns which of
    the two is wrong, and how. `next_parent` is this head's hash in the next block, if there is one;
    `verify` checks the signature over a head."""
    if next_parent is not None and digest(head) == next_parent:
        return "signature", "the replica's signature over the head does not hold"
    for name, start, size in HEAD_FIELDS:
        if name not in _FREE_FIELDS:
            continue
        for offset in range(start, start + size):
            for byte in range(256):
                fixed = head[:offset] + bytes((byte,)) + head[offset + 1 :]
                if digest(fixed) == next_parent if next_parent else verify(fixed):
                    return f"head.{name}", f"byte {offset} of the head was {byte:#04x}"
    return "signature", "the replica's signature over the head does not hold"
