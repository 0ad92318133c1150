"""A broker that loses its power has no login afterwards that the ledger had taken away."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway.bridge.logins import LoginChange
from gateway.mqtt.topics import Role
from nodes.events import NoEvents
from nodes.gateway.broker_logins import BrokerLogins
from tests.gateway.broker.brokers import BrokerProcess, user, why_not


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_removal_that_a_power_cut_took_back_is_made_again(kind: str, tmp_path: Path) -> None:
    if reason := why_not(kind):
        pytest.skip(reason)
    boss, thief = user(Role.ADMIN, "a"), user(Role.DEVICE, "b")
    logins = BrokerLogins(
        tmp_path / "logins.json",
        height=lambda: 1,
        lagging=lambda: False,
        answer=lambda *_: None,
        events=NoEvents(),
    )

    async def until_done(broker: BrokerProcess) -> None:
        async with broker.admin(boss) as admin:
            running = asyncio.ensure_future(logins.run(admin))
            while not logins.done:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def story() -> None:
        broker = BrokerProcess(tmp_path, kind, [boss, thief])
        await broker.start()
        logins.change(LoginChange(thief.name, None))
        async with asyncio.timeout(60):
            await until_done(broker)
        broker.kill()
        pointer = tmp_path / "security.json.memory"
        if pointer.exists():  # memory is gone with the power
            shutil.rmtree(pointer.read_text())
        await broker.start()
        logins.again()  # as the gateway does when the broker takes its login again
        async with asyncio.timeout(60):
            await until_done(broker)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3), broker.client(thief):
                pass
        broker.stop()

    asyncio.run(story())
