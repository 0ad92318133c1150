"""Cutting a range of blocks into MQTT-sized parts, and putting it together again."""

from __future__ import annotations

from chain.errors import PeerFault
from gateway.edge import PART_BYTES_MAX, Part

__all__ = ["Assembly", "split"]


def split(start: int, stop: int, tip: int, data: bytes) -> list[Part]:
    """`data`, blocks `start`..`stop`, as parts; at least one."""
    pieces = [data[at : at + PART_BYTES_MAX] for at in range(0, len(data), PART_BYTES_MAX)] or [b""]
    return [
        Part(start=start, stop=max(stop, 0), tip=tip, part=n, parts=len(pieces), data=piece)
        for n, piece in enumerate(pieces)
    ]


class Assembly:
    """Collects the parts of one range at a time; a part of another range begins anew."""

    def __init__(self) -> None:
        self._of: tuple[int, int, int] | None = None
        self._pieces: dict[int, bytes] = {}

    def add(self, part: Part) -> bytes | None:
        """The whole data when its last part has come. Raises PeerFault("bad-part")."""
        if part.part >= part.parts:
            raise PeerFault("bad-part", f"part {part.part} of {part.parts}")
        this = (part.start, part.stop, part.parts)
        if this != self._of:
            self._of, self._pieces = this, {}
        self._pieces[part.part] = part.data
        if len(self._pieces) < part.parts:
            return None
        data = b"".join(self._pieces[n] for n in range(part.parts))
        self._of, self._pieces = None, {}
        return data
