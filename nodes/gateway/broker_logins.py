"""Brings the broker's logins in step with the ledger, change by change, until each is done.

`gateway.bridge.logins` decides what changes. Removals go first: they wait neither for additions nor
for a gateway that lags. Changes of one name are merged and the newest counts, so what waits is
bounded by the number of identities. Requests that devices repeat change nothing at the broker. The
height up to which the broker is up to date is kept in a file: after a restart only newer blocks are
gone through again. Every change is repeatable, and several gateways may make the same one.

A broker confirms a change a moment before it is on its disk, and a power cut takes such a change
back. So the newest changes are made once more when the broker comes back (`again`), and the file
notes only what was confirmed a while ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from gateway.bridge.logins import Carrier, LoginChange
from gateway.broker.port import BrokerAdmin, BrokerAdminError
from gateway.broker.security import User
from gateway.mqtt.client import BrokerUnavailableError
from nodes.events import CountedEvents
from nodes.ports import Events
from nodes.process import write_atomically

__all__ = ["BrokerLogins", "done_height"]

RETRY_S = 0.2
PARTING_S = 0.3  # for the receipt of its own revocation to reach a device
REMOVALS_AT_ONCE_MAX = 64
AGAIN_MAX = 256  # changes that are made once more when the broker comes back
SETTLED_S = 2.0  # after its confirmation a change is on the broker's disk


class _Cursor(msgspec.Struct):
    height: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Removal(msgspec.Struct):
    since_ns: int
    due_ns: int
    again: bool = False


def done_height(path: Path) -> int:
    """The height up to which the broker is up to date; 0 if that is not known."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Cursor).height
    except (OSError, msgspec.DecodeError):
        return 0


class BrokerLogins:
    """`height` and `lagging` say how far the gateway's ledger is. `answer(device, kind, payload)`
    publishes to a device."""

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
        self._failures = CountedEvents(events, "login-failed")
        self._removals: dict[str, _Removal] = {}
        self._additions: dict[str, tuple[User, int]] = {}  # with when it was decided, in ns
        self._carriers: dict[str, Carrier] = {}
        self._answers: dict[str, tuple[str, bytes]] = {}  # (device, payload), by login
        self._listed: dict[str, str] = {}  # the certificates that the broker has
        self._wake = asyncio.Event()
        self._marking = asyncio.Lock()
        self._marked = 0
        self._made: dict[str, User | None] = {}  # the newest changes that the broker confirmed
        self._repeated: set[str] = set()  # additions that are made once more
        self._confirmed: deque[tuple[float, int]] = deque()  # (when, height), not yet settled

    def change(self, change: LoginChange) -> None:
        """Takes one change of the ledger."""
        now_ns = time.monotonic_ns()
        if change.user is not None:
            self._additions[change.name] = change.user, now_ns
            self._repeated.discard(change.name)
        else:
            for waiting in (self._additions, self._carriers, self._answers, self._listed):
                waiting.pop(change.name, None)
            due_ns = now_ns + int(PARTING_S * 1e9) if change.parting else now_ns
            waiting_one = self._removals.get(change.name)
            if waiting_one is None or waiting_one.again:
                self._removals[change.name] = _Removal(now_ns, due_ns)
        self._wake.set()

    def again(self) -> None:
        """The broker was away: perhaps its power was cut. Its newest changes are made once more."""
        now_ns = time.monotonic_ns()
        self._listed.clear()  # devices whose certificates are asked for list them again
        for name, user in self._made.items():
            if name in self._removals or name in self._additions:
                continue  # a newer change waits
            if user is None:
                self._removals[name] = _Removal(now_ns, now_ns, again=True)
            else:
                self._additions[name] = user, now_ns
                self._repeated.add(name)
        self._wake.set()

    def answer_with_login(self, login: str, device: str, payload: bytes) -> None:
        """Answers "admitted" as soon as `login` works. Until then the newest answer counts."""
        if login in self._additions:
            self._answers[login] = device, payload
        else:
            self._answer(device, "admitted", payload)

    def list_carrier(self, carrier: Carrier) -> None:
        """Lists a checked certificate and answers "carrier"; at once if it is listed."""
        if self._listed.get(carrier.name) == carrier.pem:
            self._answer(carrier.name, "carrier", carrier.digest)
        else:
            self._carriers[carrier.name] = carrier
            self._wake.set()

    async def run(self, admin: BrokerAdmin) -> None:
        """Runs until cancelled."""
        while True:
            self._wake.clear()
            try:
                busy = await self._make_some(admin)
            except (BrokerAdminError, BrokerUnavailableError) as error:
                self._failures.add(reason=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if busy:
                continue
            if not (self._removals or self._additions or self._carriers):
                with contextlib.suppress(OSError):  # a full disk: done again at the next start
                    await self._mark_settled()
            waits = bool(self._removals or self._additions or self._confirmed)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if waits else None):
                    await self._wake.wait()

    @property
    def done(self) -> bool:
        """Whether the broker is up to date with the ledger."""
        return not (self._removals or self._additions)

    async def _mark_settled(self) -> None:
        """The broker is up to date with our ledger now. What it was up to date with a while ago is
        on its disk."""
        now_s, height = time.monotonic(), self._height()
        if height > max(self._marked, self._confirmed[-1][1] if self._confirmed else 0):
            self._confirmed.append((now_s, height))
        settled = 0
        while self._confirmed and self._confirmed[0][0] <= now_s - SETTLED_S:
            settled = self._confirmed.popleft()[1]
        if settled:
            await self.mark(settled)

    async def mark(self, height: int) -> None:
        """Notes durably that the broker is up to date until this height. Raises OSError."""
        async with self._marking:
            if height > self._marked:
                data = msgspec.json.encode(_Cursor(height))
                await asyncio.to_thread(write_atomically, self._path, data)
                self._marked = height

    async def _make_some(self, admin: BrokerAdmin) -> bool:
        """One message to the broker, the most urgent. False if nothing can be done now."""
        now_ns = time.monotonic_ns()
        due = [name for name, removal in self._removals.items() if removal.due_ns <= now_ns]
        if due:
            await self._remove(admin, due[:REMOVALS_AT_ONCE_MAX])
        elif self._additions and not self._lagging():  # a newer block may take it back
            await self._add(admin, next(iter(self._additions)))
        elif self._carriers:
            await self._list(admin, next(iter(self._carriers.values())))
        else:
            return False
        return True

    async def _remove(self, admin: BrokerAdmin, names: list[str]) -> None:
        await admin.remove(*names)
        for name in names:
            removal = self._removals.pop(name)
            self._note_made(name, None)
            if not removal.again:
                self._events.emit("expelled", name=name, latency_ms=_ms_since(removal.since_ns))

    async def _add(self, admin: BrokerAdmin, name: str) -> None:
        user, since_ns = self._additions[name]
        await admin.ensure(user)
        if self._additions.pop(name, None) is None:
            return  # removed meanwhile: that removal waits
        self._note_made(name, user)
        if name in self._repeated:
            self._repeated.discard(name)
        else:
            self._events.emit("login", name=name, latency_ms=_ms_since(since_ns))
        if name in self._answers:
            device, payload = self._answers.pop(name)
            self._answer(device, "admitted", payload)

    def _note_made(self, name: str, user: User | None) -> None:
        self._made.pop(name, None)  # so that the newest stand last
        self._made[name] = user
        if len(self._made) > AGAIN_MAX:
            del self._made[next(iter(self._made))]

    async def _list(self, admin: BrokerAdmin, carrier: Carrier) -> None:
        await admin.carry(carrier.name, carrier.pem)
        if self._carriers.get(carrier.name) != carrier:
            return  # replaced or removed meanwhile
        del self._carriers[carrier.name]
        self._listed[carrier.name] = carrier.pem
        self._events.emit("carrier", name=carrier.name)
        self._answer(carrier.name, "carrier", carrier.digest)


def _ms_since(since_ns: int) -> float:
    return (time.monotonic_ns() - since_ns) / 1e6
