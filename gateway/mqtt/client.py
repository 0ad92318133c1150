"""An asyncio interface to paho-mqtt: `publish` waits for its PUBACK, messages are an iterator.

MQTT 3.1.1 and QoS 1 only. `link` is one connection. This module reconnects, and `publish` tries
again until its deadline. Messages that must survive longer go through `gateway.bridge.outbox` and
`courier`.

A login has one name, used as user name and as client id. The broker checks that they agree.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

from chain.errors import Misuse
from gateway.mqtt.link import (
    LostError,
    Message,
    MqttInbox,
    MqttLink,
    MqttSettings,
    Presence,
    pinned,
)

__all__ = ["BrokerUnavailableError", "Message", "MqttClient", "MqttSettings", "Presence", "pinned"]

log = logging.getLogger(__name__)

payload_bytes_max = 64 * 1024 - 512  # the broker's packet limit minus the longest topic
backoff_first_s, backoff_max_s = 0.05, 5.0


class BrokerUnavailableError(Exception):
    """No acknowledgement before the deadline. The outcome is unknown: it may have arrived."""


class MqttClient:
    """One login at the broker. `run` keeps it connected until it is cancelled.

    `counts`: connected, lost, refused (or unreachable), bad-login (of the refused ones: the broker
    does not take this name and password), dropped, subscription-refused.
    `rng` spreads the reconnections of many clients after a restart of the broker.
    """

    def __init__(self, settings: MqttSettings, rng: Random | None = None) -> None:
        self._settings = settings
        self._rng = rng or Random()  # noqa: S311 - spreads load, keeps no secret
        self._inbox = MqttInbox()
        self._link: MqttLink | None = None
        self._up = asyncio.Event()

    @property
    def counts(self) -> Counter[str]:
        return self._inbox.counts

    @property
    def is_up(self) -> bool:
        """Whether it is connected and subscribed now."""
        return self._up.is_set()

    async def run(self) -> None:
        """Connects, and reconnects whenever the link is lost. Runs until cancelled."""
        delay_s = backoff_first_s
        while True:
            if await self._serve_one_link():
                delay_s = backoff_first_s
            await asyncio.sleep(delay_s * self._rng.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, backoff_max_s)

    async def _serve_one_link(self) -> bool:
        link = MqttLink(self._settings, self._inbox)
        try:
            await link.open()
            log.info("%s is connected to the broker", self._settings.name)
            self.counts["connected"] += 1
            self._link = link
            self._up.set()
            await asyncio.wait([link.closed])  # a cancellation does not cancel the future
            self.counts["lost"] += 1
            return True
        except (OSError, TimeoutError, LostError) as error:
            self.counts["refused"] += 1
            log.warning("%s has no broker: %s", self._settings.name, error)
            return False
        finally:
            self._up.clear()
            self._link = None
            link.leave()

    async def ready(self, deadline_s: float = 10.0) -> None:
        """Waits until connected and subscribed. Raises BrokerUnavailableError at the deadline."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._up.wait()
        except TimeoutError:
            raise BrokerUnavailableError(
                f"no connection to {self._settings.host}:{self._settings.port} as"
                f" {self._settings.name} within {deadline_s} s ({dict(self.counts)})"
            ) from None

    async def lost(self) -> None:
        """Waits until the connection is lost. Returns at once if it is down."""
        if self._link is not None:
            await asyncio.wait([self._link.closed])

    async def publish(
        self, topic: str, payload: bytes, *, deadline_s: float = 30.0, again: bool = True
    ) -> None:
        """Returns when the broker has acknowledged. If the connection is lost, it publishes again.

        At least once: a message may arrive twice. Raises BrokerUnavailableError at the deadline.
        Unless `again`, it raises also when the connection is down or is lost: old news is not sent
        over the next one.
        """
        if len(payload) > payload_bytes_max:
            raise Misuse(f"{len(payload)} bytes for {topic}: at most {payload_bytes_max}")
        try:
            async with asyncio.timeout(deadline_s):
                while not (again or self.is_up) or not await self._publish_once(topic, payload):
                    if not again:
                        raise BrokerUnavailableError(f"{topic}: the connection is lost")
        except TimeoutError:
            raise BrokerUnavailableError(
                f"{topic} was not acknowledged within {deadline_s} s"
            ) from None

    async def _publish_once(self, topic: str, payload: bytes) -> bool:
        await self._up.wait()
        link = self._link
        assert link is not None
        await link.slots.acquire()
        if link.closed.done():
            # Free the slot: others wait for it on this dead link.
            link.slots.release()
            await asyncio.sleep(0)
            return False
        acked = link.publish(topic, payload)
        try:
            # Shielded: the slot becomes free when the broker answers, not when the caller gives up.
            await asyncio.shield(acked)
        except LostError:
            await asyncio.sleep(0)  # lets `run` notice that the link is gone
            return False
        return True

    async def messages(self) -> AsyncIterator[Message]:
        """All messages of the subscriptions, for one consumer. Runs until cancelled."""
        while True:
            yield await self.receive()

    async def receive(self) -> Message:
        """The next message. At most `inbound_messages_max` wait."""
        message = await self._inbox.get()
        if self._link and self._inbox.drained:
            self._link.read(True)
        return message
