"""Takeover, topic hijack and eavesdropping: the tries at the broker's door, by name."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping

import paho.mqtt.client as paho

from gateway.broker.security import User
from gateway.mqtt.client import Message
from gateway.mqtt.topics import ADMIN_REQUEST, HeadTopic, Response, Role, Status, Up
from testbed.attacker.attacker import new_login
from testbed.attacker.door_attack import DoorAttack, DoorTarget, Knock

__all__ = ["ATTACKS"]


def _publish(topic: str, client: paho.Client) -> None:
    client.publish(topic, b"relay", qos=1)


def _subscribe(topic: str, client: paho.Client) -> None:
    client.subscribe(topic, 1)


def _knocks(
    at: DoorTarget, topics: Mapping[str, object], act: Callable[[str, paho.Client], None]
) -> list[Knock]:
    return [
        Knock(what, at.login, at.login.name, functools.partial(act, str(topic)))
        for what, topic in topics.items()
    ]


class TakeoverAttack(DoorAttack):
    @staticmethod
    def ways(at: DoorTarget) -> list[Knock]:
        guessed = User(Role.DEVICE, at.victim, secrets.token_urlsafe(16))
        return [
            Knock("client id of another", at.login, at.victim, None),
            Knock("guessed password", guessed, at.victim, None),
        ]


class HijackAttack(DoorAttack):
    @staticmethod
    def ways(at: DoorTarget) -> list[Knock]:
        """By publishing on topics of others."""
        kind = at.rng.choice(("receipt", "admitted", "denied"))
        topics = {
            "topic of another relay": Up(at.net, at.victim, at.victim, "op"),
            "answer to another device": Response(at.net, at.victim, kind),
            "head of the chain": HeadTopic(at.net),
            "status of another": Status(at.net, at.victim),
            "a mobile device that says it is a relay": Status(at.net, at.login.node),
            "topic of another network": Up(
                f"{at.rng.getrandbits(64):016x}", at.victim, at.victim, "op"
            ),
            "order to the broker": ADMIN_REQUEST,
        }
        return _knocks(at, topics, _publish)


class EavesdropAttack(DoorAttack):
    @staticmethod
    def ways(at: DoorTarget) -> list[Knock]:
        """By subscribing to what is for others."""
        topics = {
            "everything, heard": "#",
            "the network, heard": f"m2m/1/{at.net}/#",
            "all answers, heard": f"m2m/1/{at.net}/rsp/+/#",
            "all requests, heard": f"m2m/1/{at.net}/req/+",
            "all for the gateway, heard": f"m2m/1/{at.net}/up/+/+/+",
            "answers to another device, heard": f"m2m/1/{at.net}/rsp/{at.victim}/#",
            "requests of another device, heard": f"m2m/1/{at.net}/req/{at.victim}",
            "answers of the broker, heard": f"{ADMIN_REQUEST}/response",
        }
        return _knocks(at, topics, _subscribe)

    def arm(self) -> None:
        super().arm()
        self._reported = (0, 0)
        self._messages = self._bytes = 0
        relay = new_login(Role.RELAY)
        self.attacker.let_in(relay)
        self.attacker.connect(relay, (f"m2m/1/{self.attacker.net}/req/+",), self._hear)

    def _hear(self, message: Message) -> None:
        self._messages += 1
        self._bytes += len(message.payload)

    def apply(self) -> None:
        super().apply()
        heard, before = (self._messages, self._bytes), self._reported
        self._reported = heard
        self.sent(relay_messages=heard[0] - before[0], relay_bytes=heard[1] - before[1])


ATTACKS: Mapping[str, type[DoorAttack]] = {
    "device.takeover": TakeoverAttack,
    "device.topic-hijack": HijackAttack,
    "device.eavesdrop": EavesdropAttack,
}
