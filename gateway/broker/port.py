"""Brokers in general: their configuration file, their administrator, starting either kind.

`broker_embedded` (amqtt behind `broker_door`) and `broker_mosquitto` are the two kinds; they share
the security document (`broker_security`), the administrator below and one conformance suite.
`nodes/gateway/broker.py` is the process around `serve`.
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

from gateway.broker.door import DoorLimits
from gateway.broker.security import (
    User,
    carrier_commands,
    create_commands,
    remove_commands,
)
from gateway.mqtt.client import MqttClient
from gateway.mqtt.topics import ADMIN_REQUEST, ADMIN_RESPONSE

__all__ = [
    "BrokerAdmin",
    "BrokerAdminError",
    "BrokerConfig",
    "BrokerConfigError",
    "BrokerEndedError",
    "DynamicSecurityAdmin",
    "Kind",
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


class Kind(StrEnum):
    EMBEDDED = "embedded"
    MOSQUITTO = "mosquitto"


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`port` 0: the system chooses, and the ready file tells."""

    host: str = "127.0.0.1"
    port: int = 0


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker's own certificate and key, PEM."""

    certificate: str
    key: str


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON file of `python -m nodes.gateway.broker --config FILE`. Paths are relative to it.

    `ready_file` is written when clients can connect: `{"pid", "ports": {"mqtt": port}}`.
    Mosquitto only: with `tls` it speaks TLS 1.3, and `carriers` is a second listener ("carriers"
    in the ready file) that wants a carrier certificate too, one that the security file lists.
    """

    security_file: str
    ready_file: str
    kind: Kind = Kind.EMBEDDED
    listen: Listen = msgspec.field(default_factory=Listen)
    tls: TlsFiles | None = None
    carriers: Listen | None = None
    limits: DoorLimits = msgspec.field(default_factory=DoorLimits)


class BrokerConfigError(Exception):
    """The configuration file is missing or wrong; the message says where."""


class PortTakenError(Exception):
    """Somebody else listens at the address."""


class BrokerEndedError(Exception):
    """The broker's own process ended, and nobody had told it to."""


OnReady = Callable[[str, Mapping[str, int]], None]
"""Told the host and the ports ("mqtt", "carriers") when clients can connect."""


def read_config(path: Path) -> BrokerConfig:
    """Read and check the file; `BrokerConfigError` names file and field."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=BrokerConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise BrokerConfigError(f"{path}: {error}") from error
    for name, listen in (("listen", config.listen), ("carriers", config.carriers)):
        if listen is not None and not 0 <= listen.port <= 65535:
            raise BrokerConfigError(f"{path}: {name}.port {listen.port} is not a port")
    if config.tls is not None and config.kind is Kind.EMBEDDED:
        raise BrokerConfigError(f"{path}: tls needs kind mosquitto")
    if config.carriers is not None and config.tls is None:
        raise BrokerConfigError(f"{path}: carriers needs tls")
    return config


class BrokerAdminError(Exception):
    """The broker refused a change of its users, or did not answer."""


class BrokerAdmin(Protocol):
    """What the gateway does to the broker as the chain admits or revokes. Both are repeatable."""

    async def add(self, user: User) -> None:
        """Let `user` in from now on; a user of that name is replaced (and must log in again)."""

    async def ensure(self, user: User) -> None:
        """As `add`, but one of that name who is there already stays as he is, connected too."""

    async def carry(self, name: str, pem: str) -> None:
        """Know the user by this carrier certificate from now on, in place of an earlier one."""

    async def remove(self, name: str) -> None:
        """Close the user's connection, refuse it from now on, and forget its certificate."""


class DynamicSecurityAdmin:
    """`BrokerAdmin` in the words of Mosquitto's plugin, which the embedded broker knows as well.

    Needs a client of its own (`Role.ADMIN`), subscribed to `subscriptions`, and `run` as a task.
    """

    subscriptions = (ADMIN_RESPONSE,)

    def __init__(self, client: MqttClient, net: str) -> None:
        self._client, self._net = client, net
        self._waiting: dict[str, asyncio.Future[str | None]] = {}
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Hand the broker's answers to those who wait; ends by cancellation."""
        async for message in self._client.messages():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                for answer in json.loads(message.payload)["responses"]:
                    waiter = self._waiting.get(answer.get("correlationData", ""))
                    if waiter and not waiter.done():
                        waiter.set_result(answer.get("error"))

    async def add(self, user: User) -> None:
        await self.remove(user.name)
        await self._each(create_commands(user, self._net))

    async def ensure(self, user: User) -> None:
        there = {"Client already exists", "Role already exists"}
        await self._each(create_commands(user, self._net), fine=there)

    async def carry(self, name: str, pem: str) -> None:
        await self._each(carrier_commands(name, pem), fine={"Role not found"})

    async def remove(self, name: str) -> None:
        await self._each(remove_commands(name), fine={"Client not found", "Role not found"})

    async def _each(
        self, commands: list[dict[str, Any]], fine: frozenset[str] | set[str] = frozenset()
    ) -> None:
        marks = [str(next(self._numbers)) for _ in commands]
        waiters = [asyncio.get_running_loop().create_future() for _ in commands]
        self._waiting.update(zip(marks, waiters, strict=True))
        marked = [c | {"correlationData": m} for c, m in zip(commands, marks, strict=True)]
        try:
            async with asyncio.timeout(_answer_deadline_s):
                await self._client.publish(
                    ADMIN_REQUEST,
                    json.dumps({"commands": marked}).encode(),
                    deadline_s=_answer_deadline_s,
                )
                errors = [await waiter for waiter in waiters]
        except TimeoutError:
            raise BrokerAdminError(f"no answer within {_answer_deadline_s} s") from None
        finally:
            for mark in marks:
                del self._waiting[mark]
        for command, error in zip(commands, errors, strict=True):
            if error and error not in fine:
                raise BrokerAdminError(f"{command['command']}: {error}")


async def report(counts: Callable[[], dict[str, int]]) -> None:
    """Log the counts whenever they have changed, until cancelled."""
    told: dict[str, int] = {}
    while True:
        await asyncio.sleep(_report_period_s)
        if (now := counts()) != told:
            told = now
            log.info("counts", extra={"counts": told})
