"""The state of a device across power loss, beside its key and its outboxes: one small JSON file.

Counters are reserved ahead: the file is written before any counter of a new range is used. So no
counter is used twice, and not every message costs a sync.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from nodes.disk import write_atomically
from nodes.exits import Trouble
from nodes.keygen import KEY_FILE

__all__ = ["DeviceState"]

COUNTERS_RESERVED = 256


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    reserved: Annotated[int, msgspec.Meta(ge=0)] = 0
    password: str | None = None
    starts: Annotated[int, msgspec.Meta(ge=0)] = 0
    keys: Annotated[int, msgspec.Meta(ge=1)] = 1


class DeviceState:
    """`password` is the device's own broker login, None until it is admitted; `starts` counts
    starts of this device, this one included."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            self._kept = _Kept()
        except (OSError, msgspec.DecodeError) as error:
            raise Trouble(f"{path}: {error}; restore it, its counters must not repeat") from error
        self._counter = self._kept.reserved
        self._kept.starts += 1
        self._save()

    @property
    def password(self) -> str | None:
        return self._kept.password

    @property
    def starts(self) -> int:
        return self._kept.starts

    @property
    def key_file(self) -> str:
        """Which of the device's keys is in force."""
        return _key_file(self._kept.keys)

    @property
    def next_key_file(self) -> str:
        """Where the next key is made."""
        return _key_file(self._kept.keys + 1)

    def succeed(self, password: str) -> None:
        """From now on the next key is in force: a new identity, whose counters begin again."""
        self._kept.keys += 1
        self._kept.password = password
        self._counter = self._kept.reserved = 0
        self._save()

    def set_password(self, password: str) -> None:
        self._kept.password = password
        self._save()

    def next_counter(self) -> int:
        """Higher than any before, also after a power cut."""
        self._counter += 1
        if self._counter > self._kept.reserved:
            self._kept.reserved = self._counter + COUNTERS_RESERVED
            self._save()
        return self._counter

    def at_least(self, counter: int) -> None:
        """The chain has seen our `counter`. It is above ours if this file is an old copy."""
        self._counter = max(self._counter, counter)

    def _save(self) -> None:
        write_atomically(self._path, msgspec.json.encode(self._kept), mode=0o600)


def _key_file(number: int) -> str:
    return KEY_FILE if number == 1 else f"key-{number}.pem"
