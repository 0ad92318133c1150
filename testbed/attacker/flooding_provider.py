"""Sends a flood (`flooding`) to the baseline's provider, in the protocol of its devices.

The attacker's device is on the provider's list from the beginning (`testbed.systems.baseline`). It
asks for its key as any device does. His relay's login carries the calls.
"""

from __future__ import annotations

import secrets
import threading
import time

from gateway.broker.security import User, new_password
from gateway.mqtt.client import Message
from gateway.mqtt.topics import Role
from nodes.provider.protocol import (
    ANSWER,
    CALL,
    KEY_BYTES,
    answer_codec,
    call,
    call_codec,
    is_genuine,
    open_key,
)
from testbed.attacker.flooding import Flooding
from testbed.errors import LabFault
from testbed.systems.baseline import attackers_token

__all__ = ["ProviderFlooding"]

ANSWER_S_MAX = 20.0
PAYLOAD_BYTES = 16


class ProviderFlooding(Flooding):
    """`relay` is the device, because that is what the provider logs."""

    def _own_device(self) -> None:
        attacker = self._attacker
        self.relay, self._token = attackers_token(attacker.deployment.material)
        self._answered = threading.Event()
        self._key = b""
        self._counter = 0
        user = User(Role.DEVICE, self.relay, new_password())
        attacker.let_in(user)
        attacker.connect(user, (f"m2m/1/{attacker.net}/rsp/{self.relay}/{ANSWER}",), self._hear)
        asked = call(self._token, self.relay, "enrol", 0, b"")
        attacker.up(self.relay, CALL, [call_codec.encode(asked)])
        if not self._answered.wait(ANSWER_S_MAX):
            raise LabFault("the provider gives the attacker's device no key")

    def _hear(self, message: Message) -> None:
        found = answer_codec.decode(message.payload)
        if found.kind == "enrol" and is_genuine(self._token, self.relay, found):
            self._key = open_key(self._token, self.relay, found.body)
            self._answered.set()

    async def _valid(self) -> int:
        return await self._call(self._key)

    async def _invalid(self) -> int:
        return await self._call(secrets.token_bytes(KEY_BYTES))

    async def _call(self, key: bytes) -> int:
        self._counter = max(self._counter + 1, time.time_ns())
        body = secrets.token_bytes(PAYLOAD_BYTES)
        said = call_codec.encode(call(key, self.relay, "data", self._counter, body))
        return await self._publish(self.relay, CALL, said)
