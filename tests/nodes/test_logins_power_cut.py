"""A broker that loses its power has no login afterwards that the ledger had taken away."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from gateway.bridge.logins import LoginChange
from gateway.mqtt.topics import Role
from nodes.gateway.broker_logins import BrokerLogins, done_height
from tests.gateway.broker.brokers import BrokerProcess, until, user, why_not
from tests.nodes.test_broker_logins import Chain


class Counted(Counter[str]):
    def emit(self, event: str, **_: object) -> None:
        self[event] += 1


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_removal_that_a_power_cut_took_back_is_made_again(kind: str, tmp_path: Path) -> None:
    if reason := why_not(kind):
        pytest.skip(reason)
    boss, thief = user(Role.ADMIN, "a"), user(Role.DEVICE, "b")
    chain = Chain()
    chain.height = 1
    cursor, events = tmp_path / "logins.json", Counted()
    logins = BrokerLogins(
        cursor,
        follower=lambda: chain,
        answer=lambda *_: None,
        events=events,
    )

    async def story() -> None:
        broker = BrokerProcess(tmp_path, kind, [boss, thief])
        await broker.start()
        async with asyncio.timeout(120), broker.admin(boss) as admin:
            running = asyncio.ensure_future(logins.run(admin))
            logins.change(LoginChange(thief.name, None, 1))
            await until(lambda: events["expelled"] == 1)
            broker.kill()
            pointer = tmp_path / "security.json.memory"
            if pointer.exists():  # memory is gone with the power
                shutil.rmtree(pointer.read_text())
            await logins.mark()
            assert done_height(cursor) == 0, "it may be lost"
            await broker.start()
            await until(lambda: logins.settled == 1)
            await logins.mark()
            assert done_height(cursor) == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3), broker.client(thief):
                    pass
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        broker.stop()

    asyncio.run(story())
