"""Confirms dropped and delayed frames from the tap on the host's side of a board's line. The
statement of the attacker who took them is not enough.

The board numbers its frames in each session, and dates its readings by its own clock since boot.
Run no other attack on the line meanwhile: its frames are not the board's.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from gateway.serial.frames import Frame, decode_line
from gateway.serial.session import BoardReading, kind_pong, kind_reading, reading_of
from gateway.serial.tinycbor import CborError, decode
from testbed.checks.logs import SerialFrame

__all__ = ["Tap"]


class Tap:
    """`digests`: the SHA-256, in hex, of each frame that came from the board's side."""

    def __init__(self, logged: Iterable[SerialFrame]) -> None:
        self.digests: set[str] = set()
        self._sealed: list[tuple[int, int]] = []  # (wall ns, counter), in order
        self._age_ms: dict[str, tuple[int, float]] = {}  # by digest: boot, wall minus board clock
        for each in logged:
            if each.dir != "from-board":
                continue
            line = bytes.fromhex(each.frame)
            digest, frame = sha256(line).hexdigest(), decode_line(line)
            self.digests.add(digest)
            if not isinstance(frame, Frame) or frame.kind not in (kind_reading, kind_pong):
                continue
            self._sealed.append((each.t, frame.counter))
            if (reading := _reading(frame)) is not None:
                self._age_ms[digest] = reading.boot, each.t / 1e6 - reading.at_ms
        self._least_ms: dict[int, float] = {}
        for boot, age_ms in self._age_ms.values():
            self._least_ms[boot] = min(age_ms, self._least_ms.get(boot, age_ms))

    def missing(self, begin_ns: int, end_ns: int) -> int:
        """How many of the board's frame numbers did not come between the two times."""
        missing = 0
        for (t, before), (later, after) in zip(self._sealed, self._sealed[1:], strict=False):
            if t <= end_ns and later >= begin_ns:
                missing += after - 1 - (before if after > before else 0)  # 1: a new session
        return missing

    def is_late(self, digest: str, late_ms: float) -> bool:
        """Whether a reading came at least so much later than the fastest one of its boot."""
        boot, age_ms = self._age_ms.get(digest, (0, 0.0))
        return age_ms - self._least_ms.get(boot, age_ms) >= late_ms


def _reading(frame: Frame) -> BoardReading | None:
    if frame.kind != kind_reading:
        return None
    try:
        return reading_of(decode(frame.payload)[:4])
    except (CborError, TypeError):
        return None
