"""Login changes: each is done in the end, whatever comes while the broker makes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.bridge.logins import CarrierCertificate, LoginChange
from gateway.broker.security import User
from gateway.mqtt.topics import Role
from nodes.events import NoEvents
from nodes.gateway.broker_logins import BrokerLogins, done_height

NAME = "d" * 64
USER = User(Role.DEVICE, NAME, "password")


OTHER = User(Role.DEVICE, "e" * 64, "password")


class Broker:
    """Notes what it is asked for, and takes its time with each login until it may go on."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.connection = 1
        self.users: set[str] = set()
        self.log: list[str] = []

    async def ensure(self, user: User) -> None:
        self.asked.set()
        await self.go_on.wait()
        await asyncio.sleep(0)
        self.log.append(f"add {user.name[0]}")
        self.users.add(user.name)

    async def carry(self, name: str, pem: str) -> None:
        self.log.append(f"list {name[0]} {pem}")

    async def remove(self, *names: str) -> None:
        self.log += [f"remove {name[0]}" for name in names]
        self.users.difference_update(names)


class Chain:
    """As far as the logins look at it."""

    def __init__(self) -> None:
        self.height = 7
        self.is_current = True

    def doubt(self) -> None:
        pass


class Story:
    """The logins of a gateway, a broker, and what devices were answered."""

    def __init__(self, tmp_path: Path) -> None:
        self.cursor = tmp_path / "logins.json"
        self.broker = Broker()
        self.answers: list[tuple[str, bytes]] = []
        self.follower = Chain()
        self.logins = BrokerLogins(
            self.cursor,
            follower=lambda: self.follower,
            answer=lambda _device, kind, payload: self.answers.append((kind, payload)),
            events=NoEvents(),
        )
        self.running = asyncio.ensure_future(self.logins.run(self.broker))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                assert not self.running.done(), self.running.exception()
                await asyncio.sleep(0.001)

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


def play(tmp_path: Path, story: Callable[[Story], Awaitable[None]]) -> None:
    async def whole() -> None:
        made = Story(tmp_path)
        try:
            await story(made)
        finally:
            await made.end()

    asyncio.run(whole())


def test_a_removal_that_comes_while_the_login_is_added_is_made_too(tmp_path: Path) -> None:
    """The newest answer goes out when the login works; a login that is removed answers nothing."""

    async def story(at: Story) -> None:
        at.logins.change(LoginChange(NAME, USER))
        await at.broker.asked.wait()
        at.logins.answer_with_login(NAME, NAME, b"first")
        at.logins.answer_with_login(NAME, NAME, b"asked again")
        assert at.answers == []
        at.broker.go_on.set()
        await at.until(lambda: at.answers == [("admitted", b"asked again")])
        at.broker.asked.clear()
        at.broker.go_on.clear()
        at.logins.change(LoginChange(OTHER.name, OTHER))
        at.logins.answer_with_login(OTHER.name, OTHER.name, b"too late")
        await at.broker.asked.wait()
        at.logins.change(LoginChange(OTHER.name, None, parting=True))
        at.broker.go_on.set()
        await at.until(lambda: at.logins.settled == 7 and at.broker.users == {NAME})
        assert at.answers == [("admitted", b"asked again")]

    play(tmp_path, story)


def test_a_removal_overtakes_all_additions_and_does_not_wait_for_a_gateway_that_lags(
    tmp_path: Path,
) -> None:
    async def story(at: Story) -> None:
        at.follower.is_current = False
        for number in range(2_000):
            name = f"{number:064x}"
            at.logins.change(LoginChange(name, User(Role.DEVICE, name, "password")))
        at.logins.change(LoginChange(NAME, None))
        await at.until(lambda: at.broker.log == ["remove d"])
        at.broker.go_on.set()
        at.follower.is_current = True
        await at.until(lambda: len(at.broker.log) > 10)
        at.logins.change(LoginChange(OTHER.name, None))
        await at.until(lambda: "remove e" in at.broker.log)
        assert len(at.broker.log) < 1_000

    play(tmp_path, story)


def test_requests_that_are_repeated_change_nothing_at_the_broker(tmp_path: Path) -> None:
    """Anybody can fetch admissions from the ledger and send them again."""

    async def story(at: Story) -> None:
        at.broker.go_on.set()
        at.logins.change(LoginChange(NAME, USER))
        await at.until(lambda: at.broker.log == ["add d"])
        certificate = CarrierCertificate(NAME, "pem", b"digest")
        for _ in range(1_000):
            at.logins.answer_with_login(NAME, NAME, b"again")
            at.logins.list_carrier(certificate)
        await at.until(lambda: ("carrier", b"digest") in at.answers)
        at.logins.list_carrier(certificate)
        at.logins.change(LoginChange(OTHER.name, None))
        await at.until(lambda: "remove e" in at.broker.log)
        assert at.broker.log == ["add d", "list d pem", "remove e"]
        assert at.answers.count(("admitted", b"again")) == 1_000

    play(tmp_path, story)


def test_who_is_removed_and_admitted_again_is_in(tmp_path: Path) -> None:
    """Its certificate expired, and it enrolled again in the next block."""

    async def story(at: Story) -> None:
        at.broker.go_on.set()
        at.logins.change(LoginChange(NAME, None))
        at.logins.change(LoginChange(NAME, USER))
        await at.until(lambda: at.broker.log == ["remove d", "add d"])

    play(tmp_path, story)


def test_when_the_broker_comes_back_its_newest_changes_are_made_once_more(tmp_path: Path) -> None:
    """A power cut takes back what it had confirmed and not yet on its disk."""

    async def story(at: Story) -> None:
        at.broker.go_on.set()
        at.logins.change(LoginChange(NAME, USER))
        at.logins.change(LoginChange(OTHER.name, OTHER))
        await at.until(lambda: len(at.broker.log) == 2)
        at.logins.change(LoginChange(NAME, None))
        await at.until(lambda: at.broker.users == {OTHER.name})
        at.broker.users, at.broker.connection = {NAME}, 2  # as it was before
        await at.until(lambda: at.broker.users == {OTHER.name})

    play(tmp_path, story)


def test_after_a_new_connection_additions_wait_for_what_the_replicas_state(tmp_path: Path) -> None:
    """This gateway may have been cut off: another one may have removed the login since."""

    async def story(at: Story) -> None:
        doubted = asyncio.Event()
        at.follower.doubt = doubted.set  # type: ignore[method-assign]
        at.broker.go_on.set()
        at.logins.change(LoginChange(NAME, USER))
        await at.until(lambda: at.broker.users == {NAME})
        doubted.clear()
        at.follower.is_current = False
        at.broker.users, at.broker.connection = set(), 2
        await at.until(doubted.is_set)
        at.logins.change(LoginChange(OTHER.name, None))
        await at.until(lambda: at.broker.log[-1] == "remove e")
        assert at.broker.log.count("add d") == 1
        at.follower.is_current = True
        await at.until(lambda: at.broker.users == {NAME})

    play(tmp_path, story)


def test_what_was_just_confirmed_is_not_noted_as_done(tmp_path: Path) -> None:
    """The gateway may lose its power with the broker: then it goes through these blocks again."""

    async def story(at: Story) -> None:
        at.broker.go_on.set()
        at.logins.change(LoginChange(NAME, USER, 7))
        await at.until(lambda: at.broker.users == {NAME})
        await at.logins.mark()
        assert done_height(at.cursor) == 6
        await at.until(lambda: at.logins.settled == 7)
        await at.logins.mark()
        assert done_height(at.cursor) == 7

    play(tmp_path, story)
