"""Were messages lost between a relay and the gateway? Its running numbers tell.

A number that is overtaken (a relay's own messages pass through its disk first) is waited for; one
that does not come in time is lost. The broker vouches for who the relay is.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.bridge.edge import Stamped

__all__ = ["Stamps"]

RELAYS_MAX = 4096
MISSING_MAX = 256  # waited for, of one relay
PATIENCE_MS = 10_000


class _Relay(msgspec.Struct):
    boot: int
    highest: int
    missing: dict[int, int]  # number -> since when
    lost: int = 0


class Stamps:
    def __init__(self) -> None:
        self._relays: dict[str, _Relay] = {}

    def take(self, relay: str, stamped: Stamped, now_ms: int) -> None:
        """A message of `relay` has come."""
        known = self._relays.get(relay)
        if known is None or stamped.boot > known.boot:
            if known is not None or len(self._relays) < RELAYS_MAX:
                lost = 0 if known is None else known.lost
                self._relays[relay] = _Relay(stamped.boot, stamped.n, {}, lost)
        elif stamped.boot < known.boot:
            pass  # kept on the relay's disk since before its restart
        elif stamped.n > known.highest:
            first = max(known.highest + 1, stamped.n - MISSING_MAX)
            known.lost += first - known.highest - 1
            for number in range(first, stamped.n):
                known.missing[number] = now_ms
            while len(known.missing) > MISSING_MAX:
                del known.missing[next(iter(known.missing))]
                known.lost += 1
            known.highest = stamped.n
        else:
            known.missing.pop(stamped.n, None)

    def lost(self, now_ms: int) -> Iterator[tuple[str, int]]:
        """(relay, number of messages) that have not come in time; each is told once."""
        for name, relay in self._relays.items():
            overdue = [
                n for n, since_ms in relay.missing.items() if now_ms - since_ms > PATIENCE_MS
            ]
            for number in overdue:
                del relay.missing[number]
            if overdue or relay.lost:
                yield name, len(overdue) + relay.lost
                relay.lost = 0
