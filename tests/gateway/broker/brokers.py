"""Starts broker processes for tests, of either kind, and clients for them."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from gateway.broker import door
from gateway.broker import mosquitto as broker_mosquitto
from gateway.broker.port import BrokerConfig, Counts, DynamicSecurityAdmin
from gateway.broker.security import User, new_password, write_security
from gateway.mqtt.client import MqttClient, MqttSettings, Presence
from gateway.mqtt.topics import Role

NET = "0" * 16
ROOT = f"m2m/1/{NET}"
deadline_s = 60.0  # of each wait, generous: other tests share the machine


def node(letter: str) -> str:
    return letter * 64


def user(role: Role, letter: str) -> User:
    return User(role, node(letter), new_password())


def why_not(kind: str) -> str | None:
    return broker_mosquitto.missing() if kind == "mosquitto" else None


class BrokerProcess:
    """`python -m nodes.gateway.broker` in its own folder; can be killed and started again."""

    def __init__(
        self, folder: Path, kind: str, users: list[User], net: str = NET, **more: Any
    ) -> None:
        self.folder, self.port = folder, 0
        self.users = {u.name: u for u in users}
        self._net = net
        self.trust = ""  # its certificate, if it speaks TLS
        write_security(folder / "security.json", net, users)
        self._config = {
            "kind": kind,
            "security_file": "security.json",
            "ready_file": "ready.json",
            **more,
        }
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start and wait for the ready file; a restart uses the same port."""
        listen = {"host": "127.0.0.1", "port": self.port}
        (self.folder / "broker.json").write_text(json.dumps({**self._config, "listen": listen}))
        (self.folder / "ready.json").unlink(missing_ok=True)
        with (self.folder / "log.jsonl").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "nodes.gateway.broker",
                    "--config",
                    str(self.folder / "broker.json"),
                    "--exit-on-stdin-eof",
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(deadline_s):
            while not (self.folder / "ready.json").exists():
                assert self.process.poll() is None, self.log()
                await asyncio.sleep(0.01)
        self.port = json.loads((self.folder / "ready.json").read_text())["ports"]["mqtt"]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=deadline_s)

    def log(self) -> str:
        return (self.folder / "log.jsonl").read_text()

    async def counted(self, reason: str, at_least: int = 1) -> None:
        """Wait until the broker reports so many refusals for `reason` (embedded only)."""
        async with asyncio.timeout(deadline_s):
            while True:
                reports = [json.loads(line) for line in self.log().splitlines()]
                newest: dict[str, int] = next(
                    (r["counts"] for r in reversed(reports) if "counts" in r), {}
                )
                if newest.get(reason, 0) >= at_least:
                    return
                await asyncio.sleep(0.05)

    def settings(self, user: User, *subscriptions: str, **changes: Any) -> MqttSettings:
        return MqttSettings(
            **{
                "host": "127.0.0.1",
                "port": self.port,
                "name": user.name,
                "password": user.password,
                "subscriptions": subscriptions,
                **changes,
            }
        )

    @asynccontextmanager
    async def client(
        self,
        user: User,
        *subscriptions: str,
        password: str | None = None,
        presence: Presence | None = None,
        trust: str = "",
        ready: bool = True,
        clean_session: bool = True,
    ) -> AsyncIterator[MqttClient]:
        settings = self.settings(
            user,
            *subscriptions,
            password=password or user.password,
            presence=presence,
            trust=trust or self.trust,
            clean_session=clean_session,
        )
        client = MqttClient(settings, Random(0))
        async with running(client.run()):
            if ready:
                await client.ready(deadline_s)
            yield client

    @asynccontextmanager
    async def admin(self, user: User) -> AsyncIterator[DynamicSecurityAdmin]:
        async with self.client(user, *DynamicSecurityAdmin.subscriptions) as client:
            admin = DynamicSecurityAdmin(client, self._net)
            async with running(admin.run()):
                yield admin


@asynccontextmanager
async def running(coroutine: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run beside the block; a failure of it fails the block's end."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


@asynccontextmanager
async def started(
    folder: Path, kind: str, users: list[User], **more: Any
) -> AsyncIterator[BrokerProcess]:
    broker = BrokerProcess(folder, kind, users, **more)
    await broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@asynccontextmanager
async def served(folder: Path, users: list[User], net: str = NET) -> AsyncIterator[BrokerProcess]:
    """The embedded broker in the test's own loop, for tests that neither kill nor read it: that
    takes a tenth of the time of a process."""
    broker = BrokerProcess(folder, "embedded", users, net=net)
    ports: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def ready(_host: str, found: Mapping[str, int], _counts: Counts) -> None:
        ports.set_result(found["mqtt"])

    config = BrokerConfig(security_file="security.json", ready_file="")
    serving = door.serve(config, folder, ready, asyncio.Event())
    async with running(serving):
        broker.port = await asyncio.wait_for(ports, deadline_s)
        yield broker


def story(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an asynchronous test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(100):  # less than pytest gives it
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


async def next_payloads(client: MqttClient, count: int) -> list[bytes]:
    async with asyncio.timeout(deadline_s):
        return [(await client.receive()).payload for _ in range(count)]
