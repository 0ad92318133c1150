"""What the bridge needs from the process around it: its limits, calls, and writes to the outbox."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.bridge.logins import CarrierCertificate, LoginChange
from gateway.bridge.outbox import OutboxEntry
from gateway.limits import RateLimiter

__all__ = ["BridgeLimits", "Outside", "Writes"]


class Outside(Protocol):
    """The process around the bridge, as the bridge uses it. No method blocks."""

    def submit(self, cose: bytes, *, everyone: bool) -> None:
        """Sends a request to the replica that seems to be the primary, or to all."""

    def answer(self, device: str, kind: str, payload: bytes) -> None:
        """Publishes to `rsp/<device>/<kind>`."""

    def change_login(self, change: LoginChange) -> None:
        """Adds or removes a login at the broker."""

    def list_carrier(self, carrier: CarrierCertificate) -> None:
        """Lists a device's certificate at the broker, then answers the device."""

    def answer_with_login(self, login: str, device: str, payload: bytes) -> None:
        """Publishes to `rsp/<device>/admitted` as soon as `login` works at the broker."""

    def emit(self, event: str, **fields: object) -> None:
        """Writes to the event log."""


class BridgeLimits(msgspec.Struct, frozen=True):
    """The rates are checked in this order: of the last hop, which the broker vouches for; of a
    device behind it, by relay, so that no relay uses up another's share; of ledger copies, and of
    answers that are no longer cached; of events about refusals, by relay. At most
    `waiting_max` requests are with the replicas: of one device `device_waiting_max`, of one relay
    `relay_waiting_max`."""

    relays: RateLimiter
    devices: RateLimiter
    syncs: RateLimiter
    events: RateLimiter
    waiting_max: int
    device_waiting_max: int
    relay_waiting_max: int
    submit_timeout_ms: int


class Writes(msgspec.Struct, frozen=True):
    """Entries that the outbox must store, and may forget, before `written` is called."""

    fresh: tuple[OutboxEntry, ...]
    done: tuple[bytes, ...]
