"""Brings the broker's logins in step with the ledger, change by change, until each is done.

`gateway.bridge.logins` decides what changes, `gateway.bridge.login_queue` what is made next.
Removals go first: they wait neither for additions nor for a gateway that lags. An addition waits
until f+1 replicas have stated a height since the start or since the broker was last reached: a
gateway that was cut off would add what another gateway has removed. Requests that devices repeat
change nothing at the broker.

A file keeps the height up to which the broker has all changes on its disk. After a restart, only
newer blocks are read again. Every change is repeatable, and several gateways may make the same one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from gateway.bridge.login_queue import LoginQueue, QueuedChange
from gateway.bridge.logins import CarrierCertificate, LoginChange
from gateway.broker.port import BrokerAdmin, BrokerAdminError
from gateway.mqtt.client import BrokerUnavailableError
from gateway.tasks import set_within
from nodes.disk import write_atomically
from nodes.events import CountedEvents
from nodes.ports import Events

__all__ = ["BrokerLogins", "FollowedChain", "done_height"]

RETRY_S = 0.2


class _Cursor(msgspec.Struct):
    height: Annotated[int, msgspec.Meta(ge=0)] = 0


class FollowedChain(Protocol):
    """What this gateway knows of the ledger (`gateway.bridge.follower`)."""

    @property
    def height(self) -> int: ...

    @property
    def is_current(self) -> bool:
        """Whether f+1 replicas have stated a height since `doubt`, and all of it is here."""

    def doubt(self) -> None: ...


def done_height(path: Path) -> int:
    """The height up to which the broker is up to date; 0 if that is not known."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Cursor).height
    except (OSError, msgspec.DecodeError):
        return 0


class BrokerLogins:
    """`answer(device, kind, payload)` publishes to a device."""

    def __init__(
        self,
        path: Path,
        *,
        follower: Callable[[], FollowedChain],
        answer: Callable[[str, str, bytes], None],
        events: Events,
    ) -> None:
        self._path = path
        self._follower = follower
        self._answer = answer
        self._events = events
        self._failures = CountedEvents(events, "login-failed")
        self._queue = LoginQueue()
        self._carriers: dict[str, CarrierCertificate] = {}
        self._answers: dict[str, tuple[str, bytes]] = {}  # (device, payload), by login
        self._listed: dict[str, str] = {}  # the certificates that the broker has
        self._wake = asyncio.Event()
        self._marking = asyncio.Lock()
        self._marked = done_height(path)

    def change(self, change: LoginChange) -> None:
        """Takes one change of the ledger."""
        if change.user is None:
            for waiting in (self._carriers, self._answers, self._listed):
                waiting.pop(change.name, None)
        self._queue.change(change, time.monotonic())
        self._wake.set()

    def answer_with_login(self, login: str, device: str, payload: bytes) -> None:
        """Answers "admitted" as soon as `login` works. Until then the newest answer counts."""
        if self._queue.adds(login):
            self._answers[login] = device, payload
        else:
            self._answer(device, "admitted", payload)

    def list_carrier(self, carrier: CarrierCertificate) -> None:
        """Lists a checked certificate and answers "carrier"; at once if it is listed."""
        if self._listed.get(carrier.name) == carrier.pem:
            self._answer(carrier.name, "carrier", carrier.digest)
        else:
            self._carriers[carrier.name] = carrier
            self._wake.set()

    @property
    def settled(self) -> int:
        """Up to which block the broker has all changes on its disk."""
        return self._queue.settled(self._follower().height)

    async def mark(self) -> None:
        """Notes `settled` durably. Raises OSError."""
        async with self._marking:
            if (height := self.settled) > self._marked:
                data = msgspec.json.encode(_Cursor(height))
                await asyncio.to_thread(write_atomically, self._path, data)
                self._marked = height

    async def run(self, admin: BrokerAdmin) -> None:
        """Runs until cancelled."""
        while True:
            self._wake.clear()
            if self._queue.connected(admin.connection):
                self._follower().doubt()
                self._listed.clear()  # devices whose certificates are asked for list them again
            try:
                busy = await self._make_next(admin)
            except (BrokerAdminError, BrokerUnavailableError) as error:
                self._failures.add(reason=str(error))
                self._follower().doubt()
                await asyncio.sleep(RETRY_S)
                continue
            if busy:
                continue
            await set_within(self._wake, None if self._queue.is_empty else RETRY_S)

    async def _make_next(self, admin: BrokerAdmin) -> bool:
        """One message to the broker, the most urgent. False if nothing can be done now."""
        asked_s = time.monotonic()
        changes = self._queue.next(asked_s, may_add=self._follower().is_current)
        if changes is None:
            if not self._carriers:
                return False
            await self._list(admin, next(iter(self._carriers.values())))
        elif changes and (user := changes[0].user) is not None:
            await admin.ensure(user)
        else:
            await admin.remove(*(each.name for each in changes))
        now_s = time.monotonic()
        for each in self._queue.answered(changes or [], asked_s, admin.connection, now_s):
            self._on_made(each, now_s)
        return True

    def _on_made(self, made: QueuedChange, now_s: float) -> None:
        if not made.again:
            kind = "expelled" if made.user is None else "login"
            latency_ms = (now_s - made.since_s) * 1e3
            self._events.emit(kind, name=made.name, latency_ms=latency_ms)
        if made.user is not None and made.name in self._answers:
            device, payload = self._answers.pop(made.name)
            self._answer(device, "admitted", payload)

    async def _list(self, admin: BrokerAdmin, carrier: CarrierCertificate) -> None:
        await admin.carry(carrier.name, carrier.pem)
        if self._carriers.get(carrier.name) != carrier:
            return  # replaced or removed meanwhile
        del self._carriers[carrier.name]
        self._listed[carrier.name] = carrier.pem
        self._events.emit("carrier", name=carrier.name)
        self._answer(carrier.name, "carrier", carrier.digest)
