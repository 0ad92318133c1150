"""The effects of a bad link on the messages of one direction: delay, loss, damage and the rest.

`Shape` describes them; `Shaper` decides for each message when it arrives, how often, and with which
damage. The carrier of the messages keeps the time: the wire of replicas, the MQTT client, the
switch of the emulated lab. Nothing here waits or sends.
"""

from __future__ import annotations

from collections import Counter
from math import inf, nextafter
from random import Random
from typing import Annotated

import msgspec

__all__ = ["CUT", "NO_SHAPE", "Shape", "Shaper"]

_AT_ONCE_S = 1e-6
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=3_600_000)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Kilobits = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One direction of a link. Shares are 0 to 1; `rate_kbit` 0 is without limit.

    `jitter_ms` is added to the delay or taken from it, evenly spread. `reorder` is the share of
    messages that are not delayed and so overtake others: it needs a delay.
    """

    delay_ms: _Milliseconds = 0.0
    jitter_ms: _Milliseconds = 0.0
    loss: _Share = 0.0
    reorder: _Share = 0.0
    duplicate: _Share = 0.0
    corrupt: _Share = 0.0
    rate_kbit: _Kilobits = 0.0

    def __post_init__(self) -> None:
        if self.reorder and not self.delay_ms:
            raise ValueError("reorder without delay_ms: nothing can be overtaken")

    def and_also(self, other: Shape) -> Shape:
        """This shape and `other` at once, on one link."""
        rates = [rate for rate in (self.rate_kbit, other.rate_kbit) if rate]
        return Shape(
            delay_ms=self.delay_ms + other.delay_ms,
            jitter_ms=self.jitter_ms + other.jitter_ms,
            loss=_share_of_either(self.loss, other.loss),
            reorder=_share_of_either(self.reorder, other.reorder),
            duplicate=_share_of_either(self.duplicate, other.duplicate),
            corrupt=_share_of_either(self.corrupt, other.corrupt),
            rate_kbit=min(rates, default=0.0),
        )

    @property
    def is_cut(self) -> bool:
        return self.loss == 1.0


NO_SHAPE = Shape()
CUT = Shape(loss=1.0)


class Shaper:
    """One direction under a shape. `counts` are messages: lost, delayed, reordered, duplicated,
    corrupted.

    `in_order`: jitter lets no message overtake another, as on a TCP connection. The first
    `header_bytes` of a message are never damaged.
    """

    def __init__(
        self,
        shape: Shape,
        rng: Random,
        *,
        in_order: bool = True,
        header_bytes: int = 0,
        counts: Counter[str] | None = None,
    ) -> None:
        self.shape = shape
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._rng = rng
        self._in_order = in_order
        self._header_bytes = header_bytes
        self._free_s = 0.0  # when the link has sent all that it took
        self._last_s = 0.0  # when the last message arrives

    def take(self, message: bytes, now_s: float) -> list[tuple[float, bytes]]:
        """(time on the clock of `now_s`, bytes) of each arrival: one, several or none."""
        shape, draw = self.shape, self._rng.random
        if draw() < shape.loss:
            self.counts["lost"] += 1
            return []
        if draw() < shape.corrupt:
            message = self._damaged(message)
            self.counts["corrupted"] += 1
        due_s = self._due_s(len(message), now_s)
        if draw() < shape.duplicate:
            self.counts["duplicated"] += 1
            return [(due_s, message), (due_s, message)]
        return [(due_s, message)]

    def _due_s(self, size: int, now_s: float) -> float:
        shape = self.shape
        if self._rng.random() < shape.reorder:
            self.counts["reordered"] += 1
            return now_s
        due_s = now_s + (shape.delay_ms + self._rng.uniform(-1, 1) * shape.jitter_ms) / 1000
        if shape.rate_kbit:
            due_s = max(due_s, self._free_s) + size * 8 / (shape.rate_kbit * 1000)
            self._free_s = due_s
        if self._in_order:
            # Never at the same time: a timer may not keep the order of equal times.
            due_s = self._last_s = max(due_s, nextafter(self._last_s, inf))
        if due_s - now_s > _AT_ONCE_S:
            self.counts["delayed"] += 1
        return due_s

    def _damaged(self, message: bytes) -> bytes:
        """The message with one flipped bit."""
        if not message:
            return message
        damaged = bytearray(message)
        place = self._rng.randrange(min(self._header_bytes, len(message) - 1), len(message))
        damaged[place] ^= 1 << self._rng.randrange(8)
        return bytes(damaged)


def _share_of_either(one: float, other: float) -> float:
    """The share of messages to which one or the other happens."""
    return 1 - (1 - one) * (1 - other) if one and other else one or other
