"""A full disk costs a broker no login, whatever is changed meanwhile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.broker.port import BrokerAdminError
from gateway.broker.security import User
from gateway.mqtt.topics import Role
from tests.gateway.broker.brokers import BrokerProcess, story, until, user, why_not

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.getuid() != 0, reason="root mounts a small disk"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    subprocess.run(mount, check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def in_memory(folder: Path) -> Path:
    return Path((folder / "security.json.memory").read_text())


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
@story
async def test_logins_outlive_a_full_disk_and_a_killed_broker(kind: str, disk: Path) -> None:
    """Mosquitto's plugin would leave an empty document behind, and never start again."""
    if why := why_not(kind):
        pytest.skip(why)
    admin, old, gone, new = (user(Role.ADMIN, "0"), *(user(Role.DEVICE, c) for c in "abc"))
    broker = BrokerProcess(disk, kind, [admin, old, gone])
    await broker.start()
    try:
        fill(disk / "filler")
        confirmed = await changed(broker, admin, gone, new)
        assert confirmed == (kind == "mosquitto"), "ours confirms only what is on the disk"
        broker.kill()
        (disk / "filler").unlink()
        await broker.start()
        await logs_in(broker, old, *([new] if confirmed else []))
        await is_refused(broker, *([gone] if confirmed else []))
        memory = disk / "security.json.memory"
        in_memory = Path(memory.read_text()) if memory.exists() else None
        assert broker.stop() == 0
        assert in_memory is None or not in_memory.exists(), "nothing is left there at the end"
        await broker.start()
        await logs_in(broker, old, *([new] if confirmed else []))
        await is_refused(broker, *([gone] if confirmed else []))
    finally:
        broker.stop()


async def changed(broker: BrokerProcess, admin: User, gone: User, new: User) -> bool:
    """Whether the broker confirms a removal and an addition."""
    with suppress(BrokerAdminError):
        async with broker.admin(admin) as security:
            await security.remove(gone.name)
            await security.ensure(new)
            return True
    return False


async def logs_in(broker: BrokerProcess, *users: User) -> None:
    for each in users:
        async with broker.client(each):
            pass


async def is_refused(broker: BrokerProcess, *users: User) -> None:
    for each in users:
        async with broker.client(each, ready=False) as client:
            await until(lambda client=client: client.counts["refused"] >= 1)  # type: ignore[misc]
