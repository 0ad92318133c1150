"""One knock at the broker's door: log in, try one thing, and note the broker's answer.

Mosquitto keeps the connection when it denies something, and says so in MQTT 5 only. The embedded
broker closes the connection and writes the reason to its log.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from gateway.broker.security import User
from gateway.mqtt.client import pinned
from testbed.provision.deployment import Deployment

__all__ = ["Act", "Knocked", "knock"]

POLL_S = 0.05

Act = Callable[[paho.Client], Any]


@dataclass(frozen=True, slots=True)
class Knocked:
    """`answer` is what the broker answered: `accepted`, `publish-denied` or `subscribe-denied`; ""
    if it closed the connection, or did not answer in time. `senders`: the names that its log may
    have for him."""

    answer: str
    senders: tuple[str, ...]

    def trial(self, what: str, number: int) -> str:
        """The trial's id, as `testbed.checks.door` reads it."""
        return f"broker/{what}/{number}/{','.join(self.senders)}:{self.answer}"


def knock(
    deployment: Deployment, user: User, client_id: str, act: Act | None, within_s: float
) -> Knocked:
    """Without `act` it only logs in."""
    answers = deployment.lab.broker_kind() == "mosquitto"
    broker = deployment.broker
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id,
        protocol=MQTTProtocolVersion.MQTTv5 if answers else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
    )
    client.username_pw_set(user.name, user.password)
    closed: list[bool] = []
    said: list[str] = []

    def on_connect(c: paho.Client, _: object, __: object, reason: ReasonCode, ___: object) -> None:
        if act is not None:
            act(c)
        elif not reason.is_failure:
            said.append("accepted")

    def on_publish(_: object, __: object, ___: object, reason: ReasonCode, ____: object) -> None:
        said.append("publish-denied" if reason.is_failure else "accepted")

    def on_subscribe(
        _: object, __: object, ___: object, reasons: list[ReasonCode], ____: object
    ) -> None:
        said.append("subscribe-denied" if reasons[0].is_failure else "accepted")

    client.on_connect = on_connect
    client.on_disconnect = lambda *_: closed.append(True)
    client.on_publish = on_publish
    client.on_subscribe = on_subscribe
    if broker.certificate:
        client.tls_set_context(pinned(broker.certificate))
    client.connect(broker.host, broker.port)
    line = client.socket()
    assert isinstance(line, socket.socket), "connected, and not by WebSocket"
    host, port = line.getsockname()[:2]
    deadline_s = time.monotonic() + within_s
    while not closed and not said and time.monotonic() < deadline_s:
        client.loop(POLL_S)
    if said and not closed:
        client.disconnect()
    return Knocked(said[0] if said else "", (client_id, user.name, f"{host}:{port}"))
