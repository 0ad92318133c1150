"""A man in the middle of a board's line: he alters, downgrades, reflects, drops or delays frames.
This module is pure: `pty` carries the bytes and keeps the time. He has no key. His frames have a
correct CRC, which anybody can compute, so they do not count as noise. Only the tag shows that they
are forged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Final, Literal, get_args

from gateway.serial.frames import (
    Frame,
    cobs_encode,
    crc16,
    decode_line,
    encode_frame,
    frame_bytes_max,
    header_bytes,
    no_tag,
    tag_bytes,
)
from gateway.serial.session import kind_reading
from gateway.serial.tinycbor import CborError, decode, encode

__all__ = ["HOWS", "LineMiddle", "Moved"]

How = Literal["alter", "downgrade", "reflect", "drop", "delay"]
HOWS: Final[dict[str, How]] = {each: each for each in get_args(How)}
SENT_MAX = 500
"""The most frames in `sent`; later ones are not kept."""
_CHUNK_BYTES_MAX = 4096  # a longer chunk without a 0x00 is passed on as it is
_VALUE_MIN: Final = 1 << 40  # no sensor reads so much


@dataclass
class Moved:
    """The bytes to pass on in each direction, now and `later`."""

    to_host: bytes = b""
    to_board: bytes = b""
    later: bytes = b""


@dataclass
class LineMiddle:
    """`sent`: `<SHA-256 of the frame>/<value>` of each frame that he sent, dropped or delayed; the
    value that he put into a reading, else `-`."""

    how: How
    seed: int
    copies: int
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)  # noqa: S311 - repeatable, not secret
        self._from_board = b""
        self._from_host = b""

    def from_board(self, data: bytes) -> Moved:
        moved, self._from_board = Moved(), self._from_board + data
        *chunks, self._from_board = self._from_board.split(b"\0")
        if len(self._from_board) > _CHUNK_BYTES_MAX:
            moved.to_host, self._from_board = self._from_board, b""
        for chunk in chunks:
            self._take(chunk, moved)
        return moved

    @property
    def rest(self) -> bytes:
        """The bytes of a frame that has not ended yet."""
        return self._from_board

    def from_host(self, data: bytes) -> Moved:
        """Reflects frames of the host back to it, if that is his order."""
        moved = Moved(to_board=data)
        if self.how == "reflect":
            *chunks, self._from_host = (self._from_host + data)[-_CHUNK_BYTES_MAX:].split(b"\0")
            for chunk in chunks:
                if isinstance(decode_line(chunk), Frame):
                    self._note(chunk, None)
                    moved.to_host += b"\0" + chunk + b"\0"
        return moved

    def _take(self, chunk: bytes, moved: Moved) -> None:
        frame = decode_line(chunk)
        if not isinstance(frame, Frame):
            moved.to_host += chunk + b"\0"
            return
        match self.how:
            case "alter" | "downgrade":
                for _ in range(self.copies):
                    changed, value = self._changed(frame)
                    self._note(changed[:-1], value)
                    moved.to_host += b"\0" + changed
            case "drop":
                self._note(chunk, None)
                return
            case "delay":
                self._note(chunk, None)
                moved.later += chunk + b"\0"
                return
        moved.to_host += chunk + b"\0"

    def _note(self, chunk: bytes, value: int | None) -> None:
        if len(self.sent) < SENT_MAX:
            self.sent.append(f"{sha256(chunk).hexdigest()}/{'-' if value is None else value}")

    def _changed(self, frame: Frame) -> tuple[bytes, int | None]:
        """Another frame with its closing 0x00, and the value that he put into a reading."""
        rng = self._random
        if self.how == "downgrade":
            suite = rng.choice((0, 2, 3, 255))
            body = bytes((frame.body[0], suite)) + frame.body[2:]
            tag = no_tag if rng.random() < 0.2 else rng.randbytes(tag_bytes)
            return encode_frame(body, tag), None
        if frame.kind == kind_reading and rng.random() < 0.5:
            return self._other_reading(frame)
        raw = bytearray(frame.body + frame.tag)
        for at in rng.sample(range(len(raw)), 2):
            raw[at] ^= rng.randint(1, 255)
        if rng.random() < 0.5:
            raw[2:header_bytes] = (frame.counter + rng.randint(1, 1 << 20)).to_bytes(4, "big")
        return cobs_encode(bytes(raw) + crc16(bytes(raw)).to_bytes(2, "big")) + b"\0", None

    def _other_reading(self, frame: Frame) -> tuple[bytes, int | None]:
        rng = self._random
        value = _VALUE_MIN + rng.getrandbits(40)
        try:
            boot, number, at_ms, values, *rest = decode(frame.payload)
        except (CborError, ValueError, TypeError):
            return encode_frame(frame.body, rng.randbytes(tag_bytes)), None
        ahead = rng.choice((0, 0, 1))  # in place of this reading, or of the next one
        payload = encode([boot, number + ahead, at_ms, [value, *values[1:]], *rest])
        body = frame.body[:header_bytes] + payload
        if len(body) + tag_bytes + 2 > frame_bytes_max:
            return encode_frame(frame.body, rng.randbytes(tag_bytes)), None
        return encode_frame(body, frame.tag), value
