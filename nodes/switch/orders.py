"""The switch of a process: files in one local directory order its faults.

Each file is one order, `<seam>.<id>.json`; several may be in force. An order is in force while its
file exists. Removing the file undoes it, and so does a restart, which begins by removing all files.
Only the programs in this folder have a switch; nothing that arrives over the network reaches it. A
file that another user could have written is refused. The event log has each order, refusal and
removal ("ordered", "order-refused", "order-gone").

A seam is one place at which a process meets the world: its `effects`, its `wire`, its `store`, its
`clock`. Each seam decides what an order does there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from nodes.ports import Events

__all__ = [
    "LOOK_S",
    "ORDERS_MAX",
    "ORDER_BYTES_MAX",
    "BadOrder",
    "Orders",
    "orders_in",
    "read_order",
]

LOOK_S: Final = 0.05
"""Between two looks at the directory."""
ORDER_BYTES_MAX: Final = 4096
ORDERS_MAX: Final = 64
_SETTLED_NS: Final = 50_000_000  # a directory may change again within one tick of its own clock
_NAME: Final = re.compile(r"([a-z]+)\.[a-z0-9.-]{1,64}\.json")

T = TypeVar("T", bound=msgspec.Struct)
Take = Callable[[Mapping[str, Any]], None]
"""Called with all orders in force at a seam, by file name, whenever they have changed."""


class BadOrder(Exception):
    """The message says what is wrong with it."""


class Orders:
    """Follows `directory`; orders from before its start are removed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        for path in directory.iterdir():
            path.unlink(missing_ok=True)
        self._directory = directory
        self._seams: dict[str, tuple[type[msgspec.Struct], Take]] = {}
        self._looked_ns = 0
        self._files: dict[str, tuple[int, int, int]] = {}
        self._held: dict[str, msgspec.Struct] = {}

    def add(self, seam: str, kind: type[T], take: Callable[[Mapping[str, T]], None]) -> None:
        """Orders for `seam` are a `kind` as JSON. Those in force already are taken at once: a
        process that waited for room on its disk begins again with them."""
        self._seams[seam] = (kind, take)
        take({n: order for n, order in self._held.items() if isinstance(order, kind)})

    async def follow(self, events: Events) -> None:
        """Runs until cancelled."""
        while True:
            self.look(events)
            await asyncio.sleep(LOOK_S)

    def look(self, events: Events) -> None:
        """Take what has changed since the last look. Costs one `stat` if nothing has."""
        changed_ns = self._directory.stat().st_mtime_ns
        if changed_ns == self._looked_ns:
            return
        settled = time.time_ns() - changed_ns > _SETTLED_NS
        self._looked_ns = changed_ns if settled else 0
        found = self._scan()
        gone, new = self._files.keys() - found.keys(), found.items() - self._files.items()
        self._files = found
        seams = set()
        for name in gone:
            if self._held.pop(name, None) is not None:
                seams.add(name.partition(".")[0])
                events.emit("order-gone", order=name)
        for name in sorted(name for name, _ in new):
            seams.add(name.partition(".")[0])
            self._take(name, events)
        for seam in sorted(seams & self._seams.keys()):
            held = {n: order for n, order in self._held.items() if n.startswith(f"{seam}.")}
            self._seams[seam][1](held)

    def _scan(self) -> dict[str, tuple[int, int, int]]:
        found: dict[str, tuple[int, int, int]] = {}
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and len(found) < ORDERS_MAX:
                    with contextlib.suppress(FileNotFoundError):
                        seen = entry.stat(follow_symlinks=False)
                        found[entry.name] = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
        return found

    def _take(self, name: str, events: Events) -> None:
        self._held.pop(name, None)
        seam = name.partition(".")[0]
        try:
            if seam not in self._seams:
                raise BadOrder(f"{name}: this process has no seam {seam}")
            order = read_order(self._directory / name, self._seams[seam][0])
        except (BadOrder, OSError) as error:
            events.emit("order-refused", order=name, reason=str(error))
        else:
            self._held[name] = order
            events.emit("ordered", order=name, **msgspec.to_builtins(order))


@cache
def orders_in(directory: Path) -> Orders:
    """The orders of this process. If it waits for room on its disk, it starts again under the same
    orders."""
    return Orders(directory)


def read_order(path: Path, kind: type[T]) -> T:
    """Raises BadOrder, OSError."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BadOrder(f"{path.name}: others could have written it; chmod 600")
        data = file.read(ORDER_BYTES_MAX + 1)
    if len(data) > ORDER_BYTES_MAX:
        raise BadOrder(f"{path.name}: longer than {ORDER_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadOrder(f"{path.name}: {error}") from error
