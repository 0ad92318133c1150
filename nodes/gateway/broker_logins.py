"""Brings the broker's logins in step with the ledger, change by change, until each is done.

What changes is `gateway.bridge.logins`' matter. Changes of one name are merged, the newest counts,
so what waits is bounded by the number of identities. The height up to which the broker knows
everything is kept in a file: after a restart only newer blocks are gone through again. Every
change is repeatable, and several gateways may make the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from gateway.bridge.logins import LoginChange
from gateway.broker.port import BrokerAdmin, BrokerAdminError
from gateway.mqtt.client import BrokerUnavailableError
from nodes.ports import Events
from nodes.process import write_atomically

__all__ = ["BrokerLogins", "done_height"]

RETRY_S = 0.2
PARTING_S = 0.3  # for the receipt of its own revocation to reach a device


class _Cursor(msgspec.Struct):
    height: Annotated[int, msgspec.Meta(ge=0)] = 0


def done_height(path: Path) -> int:
    """The height up to which the broker has been told; 0 if that is not known."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Cursor).height
    except (OSError, msgspec.DecodeError):
        return 0


class BrokerLogins:
    """`height` and `lagging` tell how far the gateway's ledger is; `answer(device, kind, payload)`
    tells a device that its login works ("admitted"), or its certificate ("carrier")."""

    def __init__(
        self,
        path: Path,
        *,
        height: Callable[[], int],
        lagging: Callable[[], bool],
        answer: Callable[[str, str, bytes], None],
        events: Events,
    ) -> None:
        self._path = path
        self._height = height
        self._lagging = lagging
        self._answer = answer
        self._events = events
        self._pending: dict[str, LoginChange] = {}
        self._carried: dict[str, str] = {}  # the certificates that the broker knows
        self._since_ns: dict[str, int] = {}
        self._wake = asyncio.Event()

    def change(self, change: LoginChange) -> None:
        """Merged with what waits for this name; a certificate that waits does so until its device
        sends it again."""
        self._pending[change.name] = change
        self._since_ns.setdefault(change.name, time.monotonic_ns())
        self._wake.set()

    async def run(self, admin: BrokerAdmin) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            while self._lagging():  # a newer block may take back what an older one gave
                await asyncio.sleep(RETRY_S)
            height = self._height()
            while self._pending:
                await self._make_one(admin, next(iter(self._pending)))
            self._wake.clear()
            cursor = msgspec.json.encode(_Cursor(height))
            with contextlib.suppress(OSError):  # a full disk: gone through again at the next start
                await asyncio.to_thread(write_atomically, self._path, cursor)

    async def _make_one(self, admin: BrokerAdmin, name: str) -> None:
        if self._pending[name].parting:
            # From when it was decided, so that no number of them holds up the others for longer.
            await asyncio.sleep(max(0.0, PARTING_S - _waited_s(self._since_ns[name])))
        # A change of the same name that comes while the broker is told has a wait of its own.
        change, since_ns = self._pending.pop(name), self._since_ns.pop(name)
        try:
            await self._tell(admin, change)
        except (BrokerAdminError, BrokerUnavailableError) as error:
            self._events.emit("login-failed", name=name, reason=str(error))
            self._pending.setdefault(name, change)
            self._since_ns[name] = since_ns
            await asyncio.sleep(RETRY_S)
            return
        took_ms = _waited_s(since_ns) * 1000
        done = "expelled" if change.user is None else "carrier" if change.carrier else "login"
        self._events.emit(done, name=name, latency_ms=took_ms)
        if change.answer:
            kind = "carrier" if change.carrier else "admitted"
            self._answer(change.device, kind, change.answer)

    async def _tell(self, admin: BrokerAdmin, change: LoginChange) -> None:
        if change.user is None:
            await admin.remove(change.name)
            self._carried.pop(change.name, None)
        elif not change.carrier:
            await admin.ensure(change.user)
        elif self._carried.get(change.name) != change.carrier:
            await admin.ensure(change.user)
            await admin.carry(change.name, change.carrier)
            self._carried[change.name] = change.carrier


def _waited_s(since_ns: int) -> float:
    return (time.monotonic_ns() - since_ns) / 1e9
