"""Requests that the replicas have and that are not final: how many of each sender, which replicas
refuse, and when to submit again.

`bridge` acts on them. The outbox keeps them on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from chain.pbft.messages import Signed
from gateway.limits import SHARES

__all__ = ["Pending", "PendingRequests"]

RESUBMIT_DOUBLINGS_MAX = 5
DENIAL_DELAY_MS = 1_000


class Pending(msgspec.Struct):
    """A request that is not final. The answer goes to `device`. `denials` are the replicas'
    reasons, `verdicts` their signed rejections; `tries` counts how often it was sent to all of
    them."""

    device: str
    relay: str
    cose: bytes
    sent_ms: int
    denials: dict[int, str] = msgspec.field(default_factory=dict)
    verdicts: dict[int, Signed] = msgspec.field(default_factory=dict)
    denied_ms: int | None = None  # since when enough replicas refuse
    tries: int = 0

    def due_ms(self, timeout_ms: int) -> int:
        """When to submit again. The interval doubles each time."""
        return self.sent_ms + (timeout_ms << min(self.tries, RESUBMIT_DOUBLINGS_MAX))

    def is_denied(self, enough: int, now_ms: int) -> bool:
        """Whether `enough` replicas have refused it for so long that its block would be here."""
        if len(self.denials) < enough:
            return False
        self.denied_ms = now_ms if self.denied_ms is None else self.denied_ms
        return now_ms - self.denied_ms >= DENIAL_DELAY_MS

    @property
    def reason(self) -> str:
        """The reason that most replicas give."""
        reasons = sorted(self.denials.values())
        return max(reasons, key=reasons.count)


class PendingRequests:
    """At most `requests_max`: of one device `device_max`, of one relay `relay_max`. When half of
    the room is taken, a relay gets no more than 1/SHARES of it: a few relays do not fill it."""

    def __init__(self, requests_max: int, device_max: int, relay_max: int) -> None:
        self._requests_max = requests_max
        self._device_max = device_max
        self._relay_max = relay_max
        self._requests: dict[bytes, Pending] = {}
        self._by_device: Counter[str] = Counter()
        self._by_relay: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: bytes) -> bool:
        return request in self._requests

    def __iter__(self) -> Iterator[tuple[bytes, Pending]]:
        """A snapshot, oldest first; requests may be forgotten meanwhile."""
        return iter(list(self._requests.items()))

    def has_room(self, device: str, relay: str) -> bool:
        crowded = len(self._requests) >= self._requests_max // 2
        share = max(1, self._requests_max // SHARES) if crowded else self._relay_max
        return (
            len(self._requests) < self._requests_max
            and self._by_device[device] < self._device_max
            and self._by_relay[relay] < min(share, self._relay_max)
        )

    def get(self, request: bytes) -> Pending | None:
        return self._requests.get(request)

    def add(self, digest: bytes, request: Pending) -> None:
        """Call `has_room` first, except for entries of the outbox from an earlier start."""
        self._requests[digest] = request
        self._by_device[request.device] += 1
        self._by_relay[request.relay] += 1

    def forget(self, digest: bytes) -> Pending | None:
        request = self._requests.pop(digest, None)
        if request is not None:
            _decrement(self._by_device, request.device)
            _decrement(self._by_relay, request.relay)
        return request


def _decrement(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
