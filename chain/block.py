"""Blocks: a head of fixed layout, from which everything is proven, and a body of records.

The head is plain big-endian fields: a shell script can check links with `dd` and `openssl`.

    offset  bytes  field
         0     12  "m2m-head/1" and two zero bytes: also the domain tag of head signatures
        12     32  network id (hash of the genesis document)
        44      8  height: the consensus sequence number, one block each
        52      8  time_us: consensus time, microseconds since 1970
        60     32  parent: SHA-256 of the target (previous) head
        92     32  parent_root: Merkle root of the previous block
       124     32  root: Merkle root of this block's records
       156      4  epoch of the membership that decided this block
       160      4  view in which the batch was first proposed (kept through view changes)
       164      4  count of records
    = 168 bytes

`ledger` appends and checks blocks. `registry` decides the contents of records.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec

from chain.errors import Misuse, PeerFault
from chain.keys import DIGEST_BYTES, digest
from chain.merkle import EMPTY_ROOT

__all__ = ["HEAD_BYTES", "Block", "Head", "Record", "genesis_head"]

_MAGIC = b"m2m-head/1\0\0"
_LAYOUT = struct.Struct(">12s32sQQ32s32s32sIII")
HEAD_BYTES = _LAYOUT.size

HeadBytes = Annotated[bytes, msgspec.Meta(min_length=HEAD_BYTES, max_length=HEAD_BYTES)]


class Head(msgspec.Struct, frozen=True):
    """The decoded head. `encode` and `decode` are inverse on every valid input."""

    network: bytes
    height: int
    time_us: int
    parent: bytes
    parent_root: bytes
    root: bytes
    epoch: int
    view: int
    count: int

    def encode(self) -> bytes:
        try:
            return _LAYOUT.pack(_MAGIC, *msgspec.structs.astuple(self))
        except struct.error as error:
            raise Misuse(f"head out of range: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Raises PeerFault for a wrong length or tag."""
        if len(data) != HEAD_BYTES or data[: len(_MAGIC)] != _MAGIC:
            raise PeerFault("bad-head", f"{len(data)} bytes, wanted {HEAD_BYTES} with the tag")
        return cls(*_LAYOUT.unpack(data)[1:])


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of a block's body.

    `leaf` is the deterministic-CBOR statement of the decision (a Merkle leaf). `item` is the batch
    item that caused it: the request as its client signed it, with its endorsements. A pruned record
    has an empty `item` (`ledger.pruning`).
    """

    leaf: bytes
    item: bytes


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A head with its body. The head hash identifies the block and the whole state after it."""

    head: HeadBytes
    records: tuple[Record, ...]

    @property
    def hash(self) -> bytes:
        """SHA-256 of the head, 32 bytes."""
        return digest(self.head)

    @property
    def pruned(self) -> bool:
        """Whether an item of it is gone (`ledger.pruning`)."""
        return not all(record.item for record in self.records)

    @property
    def body_bytes(self) -> int:
        """The size of its records in a message, without their few bytes of framing."""
        return sum(len(record.leaf) + len(record.item) for record in self.records)


def genesis_head(network: bytes, time_us: int) -> bytes:
    """The head of height 0: no records, no parent, no signatures. The genesis fixes it."""
    zero = bytes(DIGEST_BYTES)
    return Head(
        network=network,
        height=0,
        time_us=time_us,
        parent=zero,
        parent_root=zero,
        root=EMPTY_ROOT,
        epoch=0,
        view=0,
        count=0,
    ).encode()
