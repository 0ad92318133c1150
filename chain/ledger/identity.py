"""What the chain knows of each party: devices, administrators and sensor boards.

These are the mutable rows of the `registry`, which alone writes them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from chain.fields import DeviceKind

__all__ = [
    "BOARDS_MAX",
    "KEYS_MAX",
    "RENEWALS_MAX",
    "SESSIONS_MAX",
    "Board",
    "Device",
    "Ended",
    "Identity",
    "Kind",
]

Kind = DeviceKind | Literal["admin"]
Ended = Literal["revoked", "renewed"]

SESSIONS_MAX = 16  # open sessions of one identity
KEYS_MAX = 256  # of one device over its life: five years at the default validity
RENEWALS_MAX = 65_536  # of one device over its life: five years at a validity of an hour
BOARDS_MAX = 256  # new boards of one device over its life


class Identity(msgspec.Struct, kw_only=True):
    """The holder of one key. `device` is the node id it was admitted under, kept by renewals.

    `counter` is the last one used. An ended identity (`ended` is "revoked" or "renewed") is refused
    in blocks above `ended_height`. Administrators have `kind` "admin", no certificate (`serial`
    None) and do not expire.
    """

    node: bytes
    key: bytes
    kind: Kind
    device: bytes
    privilege: int
    services: tuple[str, ...]
    serial: int | None = None
    prior: int | None = None
    not_before_us: int = 0
    not_after_us: int = 2**62
    counter: int = 0
    ended: Ended | None = None
    ended_height: int = 0
    sessions: dict[int, str] = msgspec.field(default_factory=dict)


class Device(msgspec.Struct, kw_only=True):
    """What is counted for one device over all of its keys."""

    newest: bytes  # node id of its newest key
    keys: int = 0  # that it ever had
    renewals: int = 0  # with a new key or the same
    boards: int = 0  # that it brought to the chain


class Board(msgspec.Struct, kw_only=True):
    """A sensor board. Its sponsor signs its readings. `barred`: administrators revoked it."""

    node: bytes
    sponsor: bytes  # the `device` of an environmental identity
    service: str
    firmware: bytes
    key_check: bytes
    serial: int
    revoked_height: int | None = None
    barred: bool = False
