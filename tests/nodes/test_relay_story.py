"""A mobile device, two relays and a real broker: the relay that drops messages is left."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from chain.keys import digest
from gateway.bridge.courier import Courier
from gateway.bridge.edge import stamped_codec
from gateway.bridge.outbox import Outbox
from gateway.bridge.relay import Relay
from gateway.bridge.relays import ONLINE
from gateway.mqtt.client import MqttClient, Presence
from gateway.mqtt.topics import Role, Status, parse
from nodes.device.mobile import MobileUplink
from tests.gateway.bridge.gate import Clock, limiter
from tests.gateway.broker.brokers import NET, ROOT, running, served, story, user

GATEWAY, DEVICE = user(Role.GATEWAY, "a"), user(Role.DEVICE, "b")
HONEST, DROPPING = user(Role.RELAY, "c"), user(Role.RELAY, "d")
MESSAGES = 40
RESEND_S = 0.5


class RelayNode:
    """A relay's process in short; one that drops says that it is up, and carries nothing."""

    def __init__(self, client: MqttClient, node: str, *, drops: bool) -> None:
        self._client, self._drops = client, drops
        self._relay = Relay(NET, node, 1, limiter(Clock(), 1e6, 1e6))
        self.others: set[str] = set()

    async def run(self) -> None:
        async for message in self._client.messages():
            if isinstance(about := parse(message.topic), Status):
                self._relay.on_status(message.topic, message.payload, 0)
                self.others.add(about.node)
                continue
            passed_on = self._relay.on_request(message.topic, message.payload, 0)
            if passed_on is not None and not self._drops:
                await self._client.publish(*passed_on)


@story
async def test_every_message_gets_past_a_relay_that_drops(tmp_path: Path) -> None:
    users = [GATEWAY, DEVICE, HONEST, DROPPING]
    async with served(tmp_path, users) as broker, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(broker.client(GATEWAY, f"{ROOT}/up/+/+/+"))
        relays = []
        for who in (HONEST, DROPPING):
            presence = Presence(str(Status(NET, who.node)), ONLINE, b"")
            hears = (f"{ROOT}/req/+", f"{ROOT}/status/+")
            client = await stack.enter_async_context(broker.client(who, *hears, presence=presence))
            relays.append(RelayNode(client, who.node, drops=who is DROPPING))
            await stack.enter_async_context(running(relays[-1].run()))
        async with asyncio.timeout(60):
            while not all({HONEST.node, DROPPING.node} <= each.others for each in relays):
                await asyncio.sleep(0.05)
        device = await stack.enter_async_context(broker.client(DEVICE))
        uplink, outbox = MobileUplink(NET), Outbox(tmp_path / "outbox.sqlite")
        courier = Courier(outbox, device, resend_s=RESEND_S, again=uplink.again)
        await stack.enter_async_context(running(courier.run()))
        bodies = {digest(body): body for body in (Random(n).randbytes(64) for n in range(MESSAGES))}
        for name, body in bodies.items():
            await courier.send(name, *uplink.wrap(DEVICE.node, "op", body))
        tries: dict[bytes, int] = {}
        while len(tries) < MESSAGES:
            stamped = stamped_codec.decode((await gateway.receive()).payload)
            tries.setdefault(digest(stamped.body), stamped.tries or 0)
            await courier.done(digest(stamped.body))
        assert set(tries) == set(bodies)
        at_once = sum(each == 0 for each in tries.values())
        assert 0 < at_once < MESSAGES, "each relay has its share of the first tries"
        outbox.close()
