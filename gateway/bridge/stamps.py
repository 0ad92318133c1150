"""Where were messages lost? The relays' stamps say at which hop.

- Between a relay and the gateway: the relay's running numbers have a gap. The gateway waits for a
  missing number, because a relay's own messages pass through its disk first.
- At a relay: a device tried again, and no relay that ranked for an earlier try brought the message.
  One device may lie, so a relay is suspected only if several admitted devices say so. Only the
  relay that brings a message says how often its device tried. So the relays before it have
  LOSS_AFTER_MS to bring it too, and a message that one of them brings accuses nobody.

The broker proves which relay a message is from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from chain.keys import digest
from gateway.bridge.edge import Stamped
from gateway.bridge.relays import RELAYS_MAX

__all__ = ["SUSPECTED_BY", "Stamps"]

CARRIED_MAX = 32_768  # at the gateway's highest rate, all of the last LOSS_AFTER_MS
MISSING_MAX = 256  # missing numbers of one relay that are waited for
LOSS_AFTER_MS = 10_000
SUSPECTED_BY = 3  # devices
_DEVICES_MAX = 64  # that tried another relay, of one relay


class _Relay(msgspec.Struct):
    boot: int
    highest: int
    missing: dict[int, int]  # number -> since when
    lost: int = 0


class _Doubt(NamedTuple):
    message: bytes
    before: frozenset[str]  # the relays that ranked for the tries before
    since_ms: int


class Stamps:
    def __init__(self) -> None:
        self._relays: dict[str, _Relay] = {}
        self._carried: dict[bytes, set[str]] = {}  # by body: who brought it
        # relay -> device that tried another one
        self._passed_over: dict[str, dict[str, _Doubt]] = {}

    def take(self, relay: str, stamped: Stamped, now_ms: int) -> None:
        """Takes a message of `relay`."""
        self._carried.setdefault(digest(stamped.body), set()).add(relay)
        if len(self._carried) > CARRIED_MAX:
            del self._carried[next(iter(self._carried))]
        known = self._relays.pop(relay, None)
        if known is not None:
            self._relays[relay] = known  # the relay that was silent longest is the first to go
        if known is None or stamped.boot > known.boot:
            lost = 0 if known is None else known.lost
            self._relays[relay] = _Relay(stamped.boot, stamped.n, {}, lost)
            if len(self._relays) > RELAYS_MAX:
                del self._relays[next(iter(self._relays))]
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
        """(relay, number of messages) that did not come in time; each is returned once."""
        for name, relay in self._relays.items():
            overdue = [
                n for n, since_ms in relay.missing.items() if now_ms - since_ms > LOSS_AFTER_MS
            ]
            for number in overdue:
                del relay.missing[number]
            if overdue or relay.lost:
                yield name, len(overdue) + relay.lost
                relay.lost = 0

    def pass_over(self, before: Sequence[str], device: str, body: bytes, now_ms: int) -> None:
        """`device`, which signed `body`, tried another relay after those in `before`. The last of
        them is in doubt."""
        relay = before[-1]
        if relay not in self._passed_over and len(self._passed_over) >= RELAYS_MAX:
            del self._passed_over[next(iter(self._passed_over))]
        devices = self._passed_over.setdefault(relay, {})
        if len(devices) < _DEVICES_MAX:
            devices.setdefault(device, _Doubt(digest(body), frozenset(before), now_ms))

    def suspected(self, now_ms: int) -> Iterator[tuple[str, int]]:
        """(relay, number of devices) if enough devices waited in vain; its count starts again."""
        for relay, devices in self._passed_over.items():
            for device, doubt in list(devices.items()):
                if doubt.before & self._carried.get(doubt.message, set()):
                    del devices[device]  # an answer was lost, not the message
            count = sum(now_ms - doubt.since_ms > LOSS_AFTER_MS for doubt in devices.values())
            if count >= SUSPECTED_BY:
                yield relay, count
                devices.clear()
