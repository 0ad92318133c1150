"""Ranges of blocks for devices: joined from stored blocks, split into parts of the size of an MQTT
packet, and put together again."""

from __future__ import annotations

from chain.canonical import array_head
from chain.errors import PeerFault
from chain.proofs.client import BlockRange, encode_range
from chain.proofs.proof import Inclusion
from gateway.bridge.edge import PART_BYTES_MAX, Part

__all__ = ["Assembly", "join", "split"]

RANGES_MAX = 4  # at a time; the oldest is dropped
_NO_BLOCKS = b"\x66blocks\x80"  # CBOR: the key and an empty array


def join(start: int, blocks: list[bytes], epochs: tuple[Inclusion, ...] = ()) -> bytes:
    """An encoded `BlockRange` of encoded blocks."""
    empty = encode_range(BlockRange(start=start, blocks=(), epochs=epochs or None))
    before, after = empty.split(_NO_BLOCKS, maxsplit=1)
    return before + _NO_BLOCKS[:-1] + array_head(len(blocks)) + b"".join(blocks) + after


def split(start: int, stop: int, tip: int, data: bytes) -> list[Part]:
    """The parts of `data`, which holds the blocks `start`..`stop`. There is at least one."""
    pieces = [data[at : at + PART_BYTES_MAX] for at in range(0, len(data), PART_BYTES_MAX)] or [b""]
    return [
        Part(start=start, stop=max(stop, 0), tip=tip, part=n, parts=len(pieces), data=piece)
        for n, piece in enumerate(pieces)
    ]


class Assembly:
    """Collects the parts of a few ranges at a time: several gateways may answer one request."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[int, int, int], dict[int, bytes]] = {}

    def add(self, part: Part) -> bytes | None:
        """The whole data once all parts of a range are here. Raises PeerFault("bad-part")."""
        if part.part >= part.parts:
            raise PeerFault("bad-part", f"part {part.part} of {part.parts}")
        this = (part.start, part.stop, part.parts)
        pieces = self._ranges.setdefault(this, {})
        if len(self._ranges) > RANGES_MAX:
            del self._ranges[next(iter(self._ranges))]
        pieces[part.part] = part.data
        if len(pieces) < part.parts:
            return None
        del self._ranges[this]
        return b"".join(pieces[n] for n in range(part.parts))
