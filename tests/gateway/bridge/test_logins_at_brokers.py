"""What the logins at both brokers are after any history: a function of the chain's state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from gateway.broker.security import User, new_password
from gateway.mqtt.topics import Role
from tests.gateway.bridge.test_logins import HISTORIES, Lab
from tests.gateway.broker.brokers import BrokerProcess, until, user, why_not

ADMIN = user(Role.ADMIN, "a")


@pytest.fixture(params=["embedded", "mosquitto"], scope="module")
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    if why := why_not(request.param):
        pytest.skip(why)
    broker = BrokerProcess(tmp_path_factory.mktemp(request.param), request.param, [ADMIN])
    asyncio.run(broker.start())
    yield broker
    assert broker.stop() == 0, broker.log()


def _logins(document: Path) -> set[str]:
    clients = json.loads(document.read_bytes())["clients"]
    return {each["username"] for each in clients} - {ADMIN.name}


def confirmed(broker: BrokerProcess) -> set[str]:
    """By the document that a killed broker starts with again, which every confirmed change has
    reached. Mosquitto's is in memory."""
    pointer = broker.folder / "security.json.memory"
    folder = Path(pointer.read_text()) if pointer.exists() else broker.folder
    return _logins(folder / "security.json")


def on_disk(broker: BrokerProcess) -> set[str]:
    return _logins(broker.folder / "security.json")


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(HISTORIES)
def test_the_brokers_logins_are_a_function_of_the_chains_state(
    broker: BrokerProcess, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(live(broker, steps))


async def live(broker: BrokerProcess, steps: list[tuple[str, int]]) -> None:
    lab = Lab()
    async with broker.admin(ADMIN) as admin:
        await admin.remove(*confirmed(broker) - set(lab.there))  # of the history before
        for each in sorted(set(lab.there) - confirmed(broker)):
            await admin.ensure(User(Role.NEWCOMER, each, new_password()))
        for step, choice in steps:
            before = set(lab.there)
            lab.step(step, choice)
            for each in sorted(set(lab.there) - before):  # those that the operator handed out
                if lab.there[each] is Role.NEWCOMER:
                    await admin.ensure(User(Role.NEWCOMER, each, new_password()))
            for change in lab.changes:
                if change.user is None:
                    await admin.remove(change.name)
                else:
                    await admin.ensure(change.user)
            lab.changes = []
            assert confirmed(broker) == lab.expected()
    await until(lambda: on_disk(broker) == lab.expected())
