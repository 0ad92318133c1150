"""One login at the broker with the courier of an outbox, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.bridge.courier import Courier
from gateway.bridge.outbox import Outbox
from gateway.hops import Trace
from gateway.mqtt.client import BrokerUnavailableError, Message, MqttClient, MqttSettings
from gateway.tasks import Tasks
from nodes.ports import Events

__all__ = ["Login"]


class Login:
    """`me` is the id that topics use for this device now. `on_message` gets messages one by one.
    `relayed` are the messages of others that are on their way to the broker."""

    def __init__(
        self,
        *,
        settings: MqttSettings,
        outbox: Outbox,
        resend_ms: int,
        on_message: Callable[[Login, Message], Awaitable[None]],
        events: Events,
        again: Callable[[bytes, int], bytes],
        connect: Callable[[MqttSettings], MqttClient],
        trace: Trace,
    ) -> None:
        self.me = settings.name
        self.client = connect(settings)
        self.courier = Courier(
            outbox, self.client, resend_s=resend_ms / 1000, again=again, trace=trace
        )
        self.relayed = Tasks()
        self._on_message = on_message
        self._events = events

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[Login]:
        """Logged in while the block lasts. The block ends if a part fails: a damaged outbox, a bug.

        It waits for a broker that is down. One that refuses us is tried less and less often.
        """
        async with Tasks() as tasks, self.relayed:
            for work in (self.client.run(), self.courier.run(), self._listen()):
                tasks.start(work)
            while True:
                try:
                    await self.client.ready()
                except BrokerUnavailableError as error:
                    bad_login = self.client.counts["bad-login"] > 0
                    self._events.emit("no-broker", reason=str(error), bad_login=bad_login)
                else:
                    break
            yield self

    async def _listen(self) -> None:
        async for message in self.client.messages():
            await self._on_message(self, message)
