"""Login changes: each is done in the end, whatever comes while the broker is being told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.bridge.logins import LoginChange
from gateway.broker.security import User
from gateway.mqtt.topics import Role
from nodes.events import NoEvents
from nodes.gateway.broker_logins import BrokerLogins, done_height

NAME = "d" * 64
USER = User(Role.DEVICE, NAME, "password")


class SlowBroker:
    """Takes its time with each login until it is let go on."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.users: set[str] = set()

    async def ensure(self, user: User) -> None:
        self.asked.set()
        await self.go_on.wait()
        self.users.add(user.name)

    async def carry(self, name: str, pem: str) -> None:
        raise NotImplementedError

    async def remove(self, name: str) -> None:
        self.users.discard(name)


def test_a_change_that_comes_while_the_broker_is_told_of_the_one_before_is_made_too(
    tmp_path: Path,
) -> None:
    """A device that asks again for its admission brings two; its revocation is another."""
    answers: list[bytes] = []

    async def story() -> None:
        broker = SlowBroker()
        logins = BrokerLogins(
            tmp_path / "logins.json",
            height=lambda: 7,
            lagging=lambda: False,
            answer=lambda device, kind, payload: answers.append(payload),
            events=NoEvents(),
        )
        running = asyncio.ensure_future(logins.run(broker))
        logins.change(LoginChange(NAME, USER, device=NAME, answer=b"first"))
        await broker.asked.wait()
        logins.change(LoginChange(NAME, USER, device=NAME, answer=b"asked again"))
        broker.go_on.set()
        while len(answers) < 2:
            assert not running.done(), running.exception()
            await asyncio.sleep(0)
        broker.asked.clear()
        broker.go_on.clear()
        logins.change(LoginChange(NAME, USER))
        await broker.asked.wait()
        logins.change(LoginChange(NAME, None, parting=True))
        broker.go_on.set()
        while done_height(tmp_path / "logins.json") < 7 or broker.users:
            assert not running.done(), running.exception()
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())
    assert answers == [b"first", b"asked again"]
