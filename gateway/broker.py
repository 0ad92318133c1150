"""Brokers in general: their configuration file, their administrator, starting either kind.

`broker_embedded` (amqtt behind `broker_door`) and `broker_mosquitto` are the two kinds; they share
the security document (`broker_security`), the administrator below and one conformance suite.
`nodes/broker.py` is the process around `serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gateway.broker_door import DoorLimits
from gateway.broker_security import User, create_commands, remove_commands
from gateway.mqtt import MqttClient
from gateway.topics import ADMIN_REQUEST, ADMIN_RESPONSE

__all__ = [
    "BrokerAdmin",
    "BrokerAdminError",
    "BrokerConfig",
    "BrokerConfigError",
    "DynamicSecurityAdmin",
    "Kind",
    "Listen",
    "OnReady",
    "PortTakenError",
    "TlsFiles",
    "read_config",
]

_answer_deadline_s = 10.0


class Kind(StrEnum):
    EMBEDDED = "embedded"
    MOSQUITTO = "mosquitto"


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`port` 0: the system chooses, and the ready file tells."""

    host: str = "127.0.0.1"
    port: int = 0


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM. `clients`: the certificates that may connect, one after the other; read again when it
    changes. A certificate only proves who it is: the security file still says who may come in.
    """

    certificate: str
    key: str
    clients: str


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON file of `python -m nodes.broker --config FILE`. Paths are relative to it.

    `ready_file` is written when clients can connect: `{"pid", "ports": {"mqtt": port}}`. With
    `certificates` (Mosquitto only) `tls` is for that second listener, where a certificate's CN is
    the user; the first one goes on taking names and passwords.
    """

    security_file: str
    ready_file: str
    kind: Kind = Kind.EMBEDDED
    listen: Listen = msgspec.field(default_factory=Listen)
    tls: TlsFiles | None = None
    certificates: Listen | None = None
    limits: DoorLimits = msgspec.field(default_factory=DoorLimits)


class BrokerConfigError(Exception):
    """The configuration file is missing or wrong; the message says where."""


class PortTakenError(Exception):
    """Somebody else listens at the address."""


OnReady = Callable[[str, int], None]
"""Told the host and port when clients can connect."""


def read_config(path: Path) -> BrokerConfig:
    """Read and check the file; `BrokerConfigError` names file and field."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=BrokerConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise BrokerConfigError(f"{path}: {error}") from error
    if not 0 <= config.listen.port <= 65535:
        raise BrokerConfigError(f"{path}: listen.port {config.listen.port} is not a port")
    if config.certificates is not None and (config.tls is None or config.kind is Kind.EMBEDDED):
        raise BrokerConfigError(f"{path}: certificates needs tls, and kind mosquitto")
    return config


class BrokerAdminError(Exception):
    """The broker refused a change of its users, or did not answer."""


class BrokerAdmin(Protocol):
    """What the gateway does to the broker as the chain admits or revokes. Both are repeatable."""

    async def add(self, user: User) -> None:
        """Let `user` in from now on; a user of that name is replaced (and must log in again)."""

    async def ensure(self, user: User) -> None:
        """As `add`, but one of that name who is there already stays as he is, connected too."""

    async def remove(self, name: str) -> None:
        """Close the user's connection and refuse it from now on."""


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
        await self._each(remove_commands(user.name), fine={"Client not found", "Role not found"})
        await self._each(create_commands(user, self._net))

    async def ensure(self, user: User) -> None:
        there = {"Client already exists", "Role already exists"}
        await self._each(create_commands(user, self._net), fine=there)

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
