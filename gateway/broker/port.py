"""What both kinds of broker share: their configuration file and their administrator.

The two kinds are `embedded` (amqtt behind `door`) and `mosquitto`. Both use the security document
(`store`), the administrator below and one conformance suite (`tests/gateway/broker`).
`nodes.gateway.broker` is the process around `serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from chain.errors import PeerFault
from gateway.broker.security import (
    User,
    carrier_commands,
    create_commands,
    remove_commands,
)
from gateway.mqtt.client import BrokerUnavailableError, MqttClient
from gateway.mqtt.topics import ADMIN_REQUEST, ADMIN_RESPONSE
from gateway.refusing import refusing
from gateway.tasks import first_of

__all__ = [
    "BrokerAdmin",
    "BrokerAdminError",
    "BrokerConfig",
    "BrokerConfigError",
    "BrokerEndedError",
    "BrokerKind",
    "Counts",
    "DoorLimits",
    "DynamicSecurityAdmin",
    "Listen",
    "OnReady",
    "PortTakenError",
    "TlsFiles",
    "read_config",
    "report",
]

log = logging.getLogger(__name__)

_answer_deadline_s = 10.0
_report_period_s = 1.0


class DoorLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the broker, of a connection and of a packet."""

    packet_bytes_max: int = 64 * 1024
    connections_max: int = 512
    handshakes_max: int = 64
    connect_deadline_s: float = 5.0
    packet_deadline_s: float = 10.0
    idle_s_max: float = 300.0
    publishes_per_s: float = 2000.0
    publishes_burst: float = 4000.0
    filters_max: int = 16


class BrokerKind(StrEnum):
    EMBEDDED = "embedded"
    MOSQUITTO = "mosquitto"


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`port` 0: the system chooses one, which the ready file names."""

    host: str = "127.0.0.1"
    port: int = 0


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker's certificate and key, PEM."""

    certificate: str
    key: str


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON file of `python -m nodes.gateway.broker --config FILE`. Paths are relative to it.

    `ready_file` is written when clients can connect: `{"pid", "ports": {"mqtt": port}}`.
    `name` is that of the process, for `metrics`: where the embedded broker answers Prometheus.
    Only Mosquitto has `tls` (TLS 1.3) and `carriers`, a second listener ("carriers" in the ready
    file) that also requires a carrier certificate listed in the security file.
    """

    security_file: str
    ready_file: str
    name: str = "broker"
    kind: BrokerKind = BrokerKind.EMBEDDED
    listen: Listen = msgspec.field(default_factory=Listen)
    tls: TlsFiles | None = None
    carriers: Listen | None = None
    limits: DoorLimits = msgspec.field(default_factory=DoorLimits)
    metrics: Listen | None = None


class BrokerConfigError(Exception):
    """The configuration file is missing or wrong. The message says where."""


class PortTakenError(Exception):
    """Another process listens at the address."""


class BrokerEndedError(Exception):
    """The broker's process ended, but nobody had stopped it."""


Counts = Callable[[], dict[str, int]]
"""What the broker has counted so far, by event; any thread may ask."""
OnReady = Callable[[str, Mapping[str, int], Counts], None]
"""Called with the host and the ports ("mqtt", "carriers") when clients can connect."""


def read_config(path: Path) -> BrokerConfig:
    """Reads and checks the file. Raises BrokerConfigError, which names the file and the field."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=BrokerConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise BrokerConfigError(f"{path}: {error}") from error
    listens = {"listen": config.listen, "carriers": config.carriers, "metrics": config.metrics}
    for name, listen in listens.items():
        if listen is not None and not 0 <= listen.port <= 65535:
            raise BrokerConfigError(f"{path}: {name}.port {listen.port} is not a port")
    if config.tls is not None and config.kind is BrokerKind.EMBEDDED:
        raise BrokerConfigError(f"{path}: tls needs kind mosquitto")
    if config.metrics is not None and config.kind is BrokerKind.MOSQUITTO:
        raise BrokerConfigError(f"{path}: metrics needs kind embedded; Mosquitto has $SYS topics")
    if config.carriers is not None and config.tls is None:
        raise BrokerConfigError(f"{path}: carriers needs tls")
    return config


class BrokerAdminError(Exception):
    """The broker refused a change of its users, or did not answer."""


class BrokerAdmin(Protocol):
    """The gateway's changes at the broker as the chain admits and revokes. All are repeatable."""

    @property
    def connection(self) -> int:
        """The number of the connection to the broker, which may be down. Each has a new one."""

    async def ensure(self, user: User) -> None:
        """Adds `user` unless it is there. A user that is there stays connected."""

    async def carry(self, name: str, pem: str) -> None:
        """Lists this carrier certificate of the user in place of an earlier one."""

    async def remove(self, *names: str) -> None:
        """Removes users with their certificates, and closes their connections. Without names it
        changes nothing: its return shows that the broker lives."""


class DynamicSecurityAdmin:
    """`BrokerAdmin` with the commands of Mosquitto's plugin, for both kinds of broker.

    It needs its own client (`Role.ADMIN`), subscribed to `subscriptions`, and `run` as a task.
    With `again`, a command whose connection is lost before its answer comes is repeated over the
    next one. Otherwise it raises BrokerUnavailableError.
    """

    subscriptions = (ADMIN_RESPONSE,)

    def __init__(self, client: MqttClient, net: str, *, again: bool = True) -> None:
        self._client, self._net, self._again = client, net, again
        self._waiting: dict[str, asyncio.Future[str | None]] = {}
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Gives the broker's answers to the waiting calls. Runs until cancelled."""
        async for message in self._client.messages():
            with contextlib.suppress(PeerFault), refusing():
                for answer in json.loads(message.payload)["responses"]:
                    waiter = self._waiting.get(answer.get("correlationData", ""))
                    if waiter and not waiter.done():
                        waiter.set_result(answer.get("error"))

    @property
    def connection(self) -> int:
        return self._client.counts["connected"]

    async def ensure(self, user: User) -> None:
        there = {"Client already exists", "Role already exists"}
        await self._send_commands(create_commands(user, self._net), fine=there)

    async def carry(self, name: str, pem: str) -> None:
        await self._send_commands(carrier_commands(name, pem), fine={"Role already exists"})

    async def remove(self, *names: str) -> None:
        commands = [command for name in names for command in remove_commands(name)]
        await self._send_commands(commands, fine={"Client not found", "Role not found"})

    async def _send_commands(
        self, commands: list[dict[str, Any]], fine: frozenset[str] | set[str] = frozenset()
    ) -> None:
        marks = [str(next(self._numbers)) for _ in commands]
        waiters: list[asyncio.Future[str | None]] = [
            asyncio.get_running_loop().create_future() for _ in commands
        ]
        self._waiting.update(zip(marks, waiters, strict=True))
        marked = [c | {"correlationData": m} for c, m in zip(commands, marks, strict=True)]
        payload = json.dumps({"commands": marked}).encode()
        try:
            async with asyncio.timeout(_answer_deadline_s):
                while not await self._ask(payload, waiters):
                    if not self._again:
                        raise BrokerUnavailableError("the connection was lost before the answer")
                errors = [waiter.result() for waiter in waiters]
        except TimeoutError:
            raise BrokerAdminError(f"no answer within {_answer_deadline_s} s") from None
        finally:
            for mark in marks:
                del self._waiting[mark]
        for command, error in zip(commands, errors, strict=True):
            if error and error not in fine:
                raise BrokerAdminError(f"{command['command']}: {error}")

    async def _ask(self, payload: bytes, waiters: list[asyncio.Future[str | None]]) -> bool:
        """Whether all answers came before the connection was lost."""
        await self._client.publish(
            ADMIN_REQUEST, payload, deadline_s=_answer_deadline_s, again=self._again
        )
        if waiters:
            await first_of(asyncio.wait(waiters), self._client.lost())
        return all(waiter.done() for waiter in waiters)


async def report(counts: Counts) -> None:
    """Logs the counts whenever they have changed. Runs until cancelled."""
    logged: dict[str, int] = {}
    while True:
        await asyncio.sleep(_report_period_s)
        if (now := counts()) != logged:
            logged = now
            log.info("counts", extra={"counts": logged})
