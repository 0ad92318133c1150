"""The seam `wire`: while an order is in force, messages to and from a process are shaped.

Parties are replicas by their ids, gateways by their names, and the broker as `broker`. Frames
between replicas and gateways are shaped where they are sent (`ShapedWire`), messages of devices and
gateways where they talk to the broker (`ShapedClient`). A lost message is gone: TCP does not send
it again. MQTT's own packets and the announcements of presence pass.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Literal

import msgspec

from gateway.mqtt.client import Message, MqttClient, MqttSettings
from gateway.mqtt.link import MqttInbox
from gateway.shaping import NO_SHAPE, Shape, Shaper
from nodes.ports import Events, Party, Wire

__all__ = ["BROKER", "SEAM", "WAITING_MAX", "LinkOrder", "LinksSeam", "ShapedClient", "ShapedWire"]

BROKER = "broker"
SEAM = "wire"
REPORT_S = 0.5  # between two logs of the counts, at least
WAITING_MAX = 20_000  # messages whose time has not come; more are dropped and counted

Direction = Literal["to", "from"]
Shapes = dict[str, Shape]


class LinkOrder(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"from_": "from"},
):
    """The shapes of messages to and from each party. `seed` makes them repeatable."""

    to: Shapes = {}
    from_: Shapes = {}
    seed: int = 0


class LinksSeam:
    """Orders add up. Counts of shaped messages are logged as "link-acts", by direction and party,
    since the shape of that way last changed."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._shapers: dict[tuple[Direction, str], Shaper] = {}
        self.idle = True
        self.waiting = 0  # messages whose time has not come
        self._report_at_s = 0.0

    def take(self, orders: Mapping[str, LinkOrder]) -> None:
        """Replaces the orders in force."""
        wanted: dict[tuple[Direction, str], Shape] = {}
        for order in orders.values():
            for way, shape in _ways(order):
                wanted[way] = wanted.get(way, NO_SHAPE).and_also(shape)
        seed = next((order.seed for order in orders.values()), 0)
        self._shapers = {
            way: self._shapers[way]
            if way in self._shapers and self._shapers[way].shape == shape
            else Shaper(shape, Random(f"{seed}/{way}"))  # noqa: S311 - repeatable on purpose
            for way, shape in wanted.items()
        }
        self.idle = not wanted

    def pass_on(
        self, direction: Direction, party: str, message: bytes, deliver: Callable[[bytes], None]
    ) -> None:
        """Calls `deliver` at once, later, twice or never."""
        loop = asyncio.get_running_loop()
        for due_s, arriving in self.shaped(direction, party, message):
            if due_s <= loop.time():
                deliver(arriving)
            else:
                self.waiting += 1
                loop.call_at(due_s, self._deliver, deliver, arriving)

    def shaped(self, direction: Direction, party: str, message: bytes) -> list[tuple[float, bytes]]:
        """(time on the loop's clock, bytes) of each arrival of the message."""
        now_s = asyncio.get_running_loop().time()
        shaper = self._shapers.get((direction, party))
        if shaper is None:
            return [(now_s, message)]
        if self.waiting >= WAITING_MAX:
            shaper.counts["overflowed"] += 1
            return []
        arriving = shaper.take(message, now_s)
        self._report(now_s)
        return arriving

    def _deliver(self, deliver: Callable[[bytes], None], message: bytes) -> None:
        self.waiting -= 1
        deliver(message)

    def _report(self, now_s: float) -> None:
        if now_s < self._report_at_s:
            return
        self._report_at_s = now_s + REPORT_S
        counts: dict[Direction, dict[str, Counter[str]]] = {"to": {}, "from": {}}
        for (direction, party), shaper in self._shapers.items():
            counts[direction][party] = shaper.counts
        self._events.emit("link-acts", **counts)


class ShapedWire:
    """Implements `ports.Wire` around another."""

    def __init__(self, wire: Wire, seam: LinksSeam) -> None:
        self._wire = wire
        self._seam = seam

    def send(self, party: Party, frame: bytes) -> None:
        if self._seam.idle:
            self._wire.send(party, frame)
        else:
            self._seam.pass_on("to", str(party), frame, lambda each: self._wire.send(party, each))

    def congested(self, party: Party) -> bool:
        return self._wire.congested(party)


class ShapedClient(MqttClient):
    """A login at the broker whose messages are shaped. A lost message counts as published, as if
    the broker had lost it."""

    def __init__(self, settings: MqttSettings, seam: LinksSeam) -> None:
        super().__init__(settings)
        self._seam = seam
        self._inbox = _ShapedInbox(seam)

    async def publish(
        self, topic: str, payload: bytes, *, deadline_s: float = 30.0, again: bool = True
    ) -> None:
        if self._seam.idle:
            await super().publish(topic, payload, deadline_s=deadline_s, again=again)
            return
        loop = asyncio.get_running_loop()
        for due_s, arriving in self._seam.shaped("to", BROKER, payload):
            await asyncio.sleep(due_s - loop.time())
            await super().publish(topic, arriving, deadline_s=deadline_s, again=again)


class _ShapedInbox(MqttInbox):
    def __init__(self, seam: LinksSeam) -> None:
        super().__init__()
        self._seam = seam

    def put(self, message: Message) -> None:
        if self._seam.idle:
            super().put(message)
            return

        def deliver(payload: bytes) -> None:
            super(_ShapedInbox, self).put(Message(message.topic, payload))

        self._seam.pass_on("from", BROKER, message.payload, deliver)


def _ways(order: LinkOrder) -> Iterator[tuple[tuple[Direction, str], Shape]]:
    for party, shape in order.to.items():
        yield ("to", party), shape
    for party, shape in order.from_.items():
        yield ("from", party), shape
