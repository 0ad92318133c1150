"""Publishes the entries of an outbox until each is answered.

Order: put (durable), publish, publish again every `resend_s`, done when the receiver has answered.
Receivers drop repeated messages by digest, so the effect is exactly once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from gateway.bridge.outbox import Outbox, OutboxEntry
from gateway.hops import NO_TRACE, Hop, Trace
from gateway.mqtt.client import BrokerUnavailableError, MqttClient
from gateway.tasks import Tasks, set_within

__all__ = ["Courier"]

window_entries = 100  # unanswered at once


class Courier:
    """Call `send` from the event loop and `done` at each answer; `run` is a task.

    `again(payload, tries)` is the payload to send after `tries` attempts without an answer. The
    `trace` notes the first attempt.
    `counts`: sent, resent, done, unacknowledged.
    """

    def __init__(
        self,
        outbox: Outbox,
        client: MqttClient,
        *,
        resend_s: float = 5.0,
        again: Callable[[bytes, int], bytes] = lambda payload, _tries: payload,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._outbox, self._client, self._resend_s = outbox, client, resend_s
        self._again = again
        self._trace = trace
        self._sent_at: dict[bytes, float] = {}
        self._tries: Counter[bytes] = Counter()
        self._publishing: set[bytes] = set()
        self._wake = asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def send(self, digest: bytes, topic: str, payload: bytes) -> bool:
        """Durable on return. Returns False if `digest` is there already. Raises OutboxFullError."""
        # The fsync takes milliseconds, tens on an SD card: not in the event loop.
        new = await asyncio.to_thread(self._outbox.put, digest, topic, payload)
        self._wake.set()
        return new

    async def done(self, digest: bytes) -> bool:
        """The receiver has answered. Returns False for a repeated answer."""
        known = await asyncio.to_thread(self._outbox.done, digest)
        self._sent_at.pop(digest, None)
        self._tries.pop(digest, None)
        self.counts["done"] += known
        self._wake.set()
        return known

    async def run(self) -> None:
        """Sends the entries, oldest first. Runs until cancelled or until the outbox is damaged.

        At most `window_entries` are unanswered at once, so a refusal must end in `done` too.
        """
        async with Tasks() as publishing:
            await self._send_pending(publishing)

    async def _send_pending(self, publishing: Tasks) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            entries = await asyncio.to_thread(self._outbox.pending, 0, window_entries)
            now_s = loop.time()
            for entry in entries:
                if self._due_s(entry) <= now_s and entry.digest not in self._publishing:
                    self._publishing.add(entry.digest)
                    publishing.start(self._publish(entry))
            waiting = [self._due_s(e) for e in entries if e.digest not in self._publishing]
            wait_s = min(waiting, default=now_s + self._resend_s) - loop.time()
            await set_within(self._wake, max(0.0, wait_s))

    def _due_s(self, entry: OutboxEntry) -> float:
        sent_s = self._sent_at.get(entry.digest)
        return 0.0 if sent_s is None else sent_s + self._resend_s

    async def _publish(self, entry: OutboxEntry) -> None:
        self.counts["resent" if entry.digest in self._sent_at else "sent"] += 1
        self._sent_at[entry.digest] = asyncio.get_running_loop().time()
        tries = self._tries[entry.digest]
        self._tries[entry.digest] += 1
        payload = self._again(entry.payload, tries) if tries else entry.payload
        if not tries:
            self._trace.request(Hop.SENT, entry.digest)
        try:
            await self._client.publish(entry.topic, payload, deadline_s=self._resend_s)
        except BrokerUnavailableError:
            self.counts["unacknowledged"] += 1  # it stays in the outbox and is sent again
        finally:
            self._publishing.discard(entry.digest)
            self._wake.set()
