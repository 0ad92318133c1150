"""One login at the broker with the courier of an outbox, for as long as a `with` block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from gateway.bridge.courier import Courier
from gateway.bridge.outbox import Outbox
from gateway.mqtt.client import BrokerUnavailableError, Message, MqttClient, MqttSettings
from nodes.ports import Events

__all__ = ["Login"]


class Login:
    """`me` is the id under which topics know us now. Messages go to `on_message`, one at a time.

    `failed` is done when a part of it ended by itself: a damaged outbox, a bug.
    """

    def __init__(
        self,
        *,
        settings: MqttSettings,
        outbox: Outbox,
        resend_ms: int,
        on_message: Callable[[Login, Message], Awaitable[None]],
        events: Events,
        again: Callable[[bytes, int], bytes],
    ) -> None:
        self.me = settings.name
        self.client = MqttClient(settings)
        self.courier = Courier(outbox, self.client, resend_s=resend_ms / 1000, again=again)
        self._on_message = on_message
        self._events = events
        self._tasks: list[asyncio.Future[None]] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        work = (self.client.run(), self.courier.run(), self._listen())
        self._tasks = [asyncio.ensure_future(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        try:
            await self._ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def _ready(self) -> None:
        """A broker that is down comes back; one that refuses us is tried too, ever more rarely."""
        while not self.failed.done():
            try:
                await self.client.ready()
            except BrokerUnavailableError as error:
                self._events.emit("no-broker", reason=str(error))
            else:
                return
        self.failed.result()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def watch(self) -> None:
        """Until a part of it fails, and as that did."""
        await asyncio.wait([self.failed])
        self.failed.result()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        async for message in self.client.messages():
            await self._on_message(self, message)

    def _ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self.failed.done():
            self.failed.set_exception(error)
