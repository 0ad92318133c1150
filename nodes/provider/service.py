"""The provider's decisions: who gets a key, which reading is taken. `process` runs it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from nodes.ports import Events
from nodes.provider.protocol import (
    KEY_BYTES,
    OK,
    Call,
    Reply,
    answer,
    is_genuine,
    request_id,
    seal_key,
)
from nodes.provider.store import Escrow, ReadingStore, StoredReading

__all__ = ["ProviderService"]


class ProviderService:
    """`tokens`: the keys that devices enrol with, by device. Everything that `handle` took is
    durable after `commit`; only then may its answers leave."""

    def __init__(
        self, tokens: Mapping[str, bytes], escrow: Escrow, readings: ReadingStore, events: Events
    ) -> None:
        self._tokens = tokens
        self._escrow = escrow
        self._readings = readings
        self._events = events
        self._taken = 0  # since the last commit

    @property
    def height(self) -> int:
        """Batches that were made durable."""
        return self._readings.batch

    def handle(self, device: str, call: Call, now_us: int) -> Reply:
        """The answer to one call."""
        key = self._tokens.get(device) if call.kind == "enrol" else self._escrow.key(device)
        if key is None:
            # A stranger cannot check an answer, and gets one under a key that nobody has.
            return self._refused(secrets.token_bytes(KEY_BYTES), device, call, "unknown-device")
        if not is_genuine(key, device, call):
            return self._refused(key, device, call, "bad-mac")
        if call.counter <= self._readings.highest(device):
            if self._readings.mac(device, call.counter) != call.mac:
                return self._refused(key, device, call, "old-counter")
        else:
            self._take(device, call, now_us)
        return answer(key, device, call, OK, self._body(key, device, call))

    def commit(self) -> int:
        """Makes the taken calls durable, keys first. Returns how many there were."""
        taken, self._taken = self._taken, 0
        if taken:
            self._escrow.commit()
            self._readings.commit()
        return taken

    def _take(self, device: str, call: Call, now_us: int) -> None:
        if call.kind == "enrol" and self._escrow.key(device) is None:
            self._escrow.keep(device, secrets.token_bytes(KEY_BYTES))
        self._readings.add(
            StoredReading(
                device, call.counter, self.height + 1, now_us, call.kind, call.body, call.mac
            )
        )
        self._taken += 1
        self._requested(device, call, "accepted")

    def _body(self, key: bytes, device: str, call: Call) -> bytes:
        """An enrolment is answered with the device's key; again if the first answer was lost."""
        made = self._escrow.key(device)
        return seal_key(key, device, made) if call.kind == "enrol" and made else b""

    def _refused(self, key: bytes, device: str, call: Call, reason: str) -> Reply:
        self._requested(device, call, f"refused:{reason}")
        return answer(key, device, call, f"refused:{reason}")

    def _requested(self, device: str, call: Call, outcome: str) -> None:
        self._events.emit(
            "request",
            id=request_id(device, call.counter).hex(),
            device=device,
            relay=device,
            outcome=outcome,
        )
