"""Takeover, topic hijack and eavesdropping: what is tried at the broker's door."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterator

import paho.mqtt.client as paho

from gateway.broker.security import User
from gateway.mqtt.client import Message
from gateway.mqtt.topics import ADMIN_REQUEST, Head, Response, Role, Status, Up
from testbed.attacker.attacker import new_login
from testbed.attacker.door_attack import DoorAttack, Knock

__all__ = ["EavesdropAttack", "HijackAttack", "TakeoverAttack"]


def _publish(topic: str, payload: bytes, client: paho.Client) -> None:
    client.publish(topic, payload, qos=1)


def _subscribe(topic: str, client: paho.Client) -> None:
    client.subscribe(topic, 1)


class TakeoverAttack(DoorAttack):
    def knocks(self) -> Iterator[Knock]:
        rng = self.scene.rng
        for _ in range(self.batch):
            victim = rng.choice(self.victims)
            if rng.random() < 0.5:
                yield f"own-login-as-{victim}", self.login, victim, None
            else:
                guessed = User(Role.DEVICE, victim, secrets.token_urlsafe(16))
                yield f"guessed-password-of-{victim}", guessed, victim, None


class HijackAttack(DoorAttack):
    def knocks(self) -> Iterator[Knock]:
        rng = self.scene.rng
        net, login = self.attacker.net, self.login
        for _ in range(self.batch):
            victim = rng.choice(self.victims)
            topics = {
                "another-relay": str(Up(net, victim, victim, "op")),
                "answer": str(Response(net, victim, rng.choice(("receipt", "admitted", "denied")))),
                "head": str(Head(net)),
                "status": str(Status(net, rng.choice((victim, login.node)))),
                "another-network": str(Up(f"{rng.getrandbits(64):016x}", victim, victim, "op")),
                "control": ADMIN_REQUEST,
            }
            what = rng.choice(sorted(topics))
            act = functools.partial(_publish, topics[what], rng.randbytes(40))
            yield f"{what}-of-{victim}", login, login.name, act


class EavesdropAttack(DoorAttack):
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

    def knocks(self) -> Iterator[Knock]:
        rng = self.scene.rng
        net, login = self.attacker.net, self.login
        for _ in range(self.batch):
            victim = rng.choice(self.victims)
            topics = {
                "everything": "#",
                "the-network": f"m2m/1/{net}/#",
                "all-answers": f"m2m/1/{net}/rsp/+/#",
                "all-requests": f"m2m/1/{net}/req/+",
                "all-to-the-gateway": f"m2m/1/{net}/up/+/+/+",
                f"answers-to-{victim}": f"m2m/1/{net}/rsp/{victim}/#",
                f"requests-of-{victim}": f"m2m/1/{net}/req/{victim}",
                "control": f"{ADMIN_REQUEST}/response",
            }
            what = rng.choice(sorted(topics))
            yield what, login, login.name, functools.partial(_subscribe, topics[what])
