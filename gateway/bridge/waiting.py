"""Requests that are with the replicas: how many of whom, who says no, and when one is due again.

What becomes of them is decided in `bridge`; that they survive is the outbox's matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

__all__ = ["Request", "Waiting"]

RESUBMIT_DOUBLINGS_MAX = 5
DENIAL_PATIENCE_MS = 1_000


class Request(msgspec.Struct):
    """`device` is whom to answer. `denials` are the replicas' reasons, `tries` counts how often
    it went to all of them."""

    device: str
    relay: str
    cose: bytes
    sent_ms: int
    denials: dict[int, str] = msgspec.field(default_factory=dict)
    denied_ms: int | None = None  # since when enough say no
    tries: int = 0

    def due_ms(self, timeout_ms: int) -> int:
        """When to try again: ever more rarely."""
        return self.sent_ms + (timeout_ms << min(self.tries, RESUBMIT_DOUBLINGS_MAX))

    def is_denied(self, enough: int, now_ms: int) -> bool:
        """Whether `enough` replicas have said no for so long that a block would have come."""
        if len(self.denials) < enough:
            return False
        self.denied_ms = now_ms if self.denied_ms is None else self.denied_ms
        return now_ms - self.denied_ms >= DENIAL_PATIENCE_MS

    @property
    def reason(self) -> str:
        """What most replicas say."""
        reasons = sorted(self.denials.values())
        return max(reasons, key=reasons.count)


class Waiting:
    """At most `requests_max`, of which one device has `device_max` and one relay `relay_max`."""

    def __init__(self, requests_max: int, device_max: int, relay_max: int) -> None:
        self._requests_max = requests_max
        self._device_max = device_max
        self._relay_max = relay_max
        self._requests: dict[bytes, Request] = {}
        self._by_device: Counter[str] = Counter()
        self._by_relay: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: bytes) -> bool:
        return request in self._requests

    def __iter__(self) -> Iterator[tuple[bytes, Request]]:
        """As they are now, oldest first; requests may be forgotten meanwhile."""
        return iter(list(self._requests.items()))

    def has_room(self, device: str, relay: str) -> bool:
        return (
            len(self._requests) < self._requests_max
            and self._by_device[device] < self._device_max
            and self._by_relay[relay] < self._relay_max
        )

    def get(self, request: bytes) -> Request | None:
        return self._requests.get(request)

    def add(self, digest: bytes, request: Request) -> None:
        """Whether there is room was asked before, or it was accepted in an earlier life."""
        self._requests[digest] = request
        self._by_device[request.device] += 1
        self._by_relay[request.relay] += 1

    def forget(self, digest: bytes) -> Request | None:
        request = self._requests.pop(digest, None)
        if request is not None:
            _less(self._by_device, request.device)
            _less(self._by_relay, request.relay)
        return request


def _less(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
