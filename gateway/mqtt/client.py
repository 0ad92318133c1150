"""An asyncio face on paho-mqtt: publish that waits for its PUBACK, messages as an iterator.

MQTT 3.1.1 only, QoS 1. The connection itself is `mqtt_link`'s; here it is kept up, and who
publishes tries again by himself, within his deadline. What must survive longer than that goes
through `outbox` and `courier`.

One name per login: it is user name and client id at once, and the broker holds it to that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

from chain.errors import Misuse
from gateway.mqtt.link import Inbox, Link, LostError, Message, MqttSettings, Presence, pinned

__all__ = ["BrokerUnavailableError", "Message", "MqttClient", "MqttSettings", "Presence", "pinned"]

log = logging.getLogger(__name__)

payload_bytes_max = 64 * 1024 - 512  # the broker's packet limit less the longest topic
backoff_first_s, backoff_max_s = 0.05, 5.0


class BrokerUnavailableError(Exception):
    """No acknowledgement before the deadline. The outcome is unknown: it may have arrived."""


class MqttClient:
    """One login at the broker, kept up by `run` until that is cancelled.

    `counts`: connected, lost, refused (or unreachable), dropped, subscription-refused.
    `rng` spreads the reconnections of many clients after a broker restart.
    """

    def __init__(self, settings: MqttSettings, rng: Random | None = None) -> None:
        self._settings = settings
        self._rng = rng or Random()  # noqa: S311 - spreads load, keeps no secret
        self._inbox = Inbox()
        self._link: Link | None = None
        self._up = asyncio.Event()

    @property
    def counts(self) -> Counter[str]:
        return self._inbox.counts

    @property
    def is_up(self) -> bool:
        """Whether connected and subscribed just now."""
        return self._up.is_set()

    async def run(self) -> None:
        """Connect, and connect again whenever the link is lost. Ends only by cancellation."""
        delay_s = backoff_first_s
        while True:
            if await self._serve_one_link():
                delay_s = backoff_first_s
            await asyncio.sleep(delay_s * self._rng.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, backoff_max_s)

    async def _serve_one_link(self) -> bool:
        link = Link(self._settings, self._inbox)
        try:
            await link.open()
            log.info("%s is connected to the broker", self._settings.name)
            self.counts["connected"] += 1
            self._link = link
            self._up.set()
            await asyncio.wait([link.closed])  # unlike `await`, cancels us and not the future
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
        """Wait until connected and subscribed; `BrokerUnavailableError` past the deadline."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._up.wait()
        except TimeoutError:
            raise BrokerUnavailableError(
                f"no connection to {self._settings.host}:{self._settings.port} as"
                f" {self._settings.name} within {deadline_s} s ({dict(self.counts)})"
            ) from None

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, deadline_s: float = 30.0
    ) -> None:
        """Return once the broker has acknowledged; wait for it and repeat if it went away.

        At least once: a repeat may arrive twice. `BrokerUnavailableError` past the deadline.
        """
        if len(payload) > payload_bytes_max:
            raise Misuse(f"{len(payload)} bytes for {topic}: at most {payload_bytes_max}")
        try:
            async with asyncio.timeout(deadline_s):
                while not await self._publish_once(topic, payload, retain):
                    pass
        except TimeoutError:
            raise BrokerUnavailableError(
                f"{topic} was not acknowledged within {deadline_s} s"
            ) from None

    async def _publish_once(self, topic: str, payload: bytes, retain: bool) -> bool:
        await self._up.wait()
        link = self._link
        assert link is not None
        await link.slots.acquire()
        if link.closed.done():
            # Give the slot on, or the next in line would wait for ever on a dead link.
            link.slots.release()
            await asyncio.sleep(0)
            return False
        acked = link.publish(topic, payload, retain)
        try:
            # Shielded: the slot is free when the broker answers, not when the caller gives up.
            await asyncio.shield(acked)
        except LostError:
            await asyncio.sleep(0)  # lets `run` notice that the link is gone
            return False
        return True

    async def messages(self) -> AsyncIterator[Message]:
        """All that the subscriptions bring, for one consumer; never ends by itself."""
        while True:
            yield await self.receive()

    async def receive(self) -> Message:
        """The next message. While nobody asks, at most `inbound_messages_max` pile up."""
        message = await self._inbox.get()
        if self._link and self._inbox.drained:
            self._link.read(True)
        return message
