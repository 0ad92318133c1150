"""`python -m nodes.provider.gateway --config FILE`: carries calls from the broker to the provider.

It knows no keys and checks nothing but the topic and each sender's rate. The limits are those of
the chain's gateway (`nodes.gateway`), so that a flood meets the same limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

from chain.errors import PeerFault
from gateway.bridge.edge import stamped_codec
from gateway.broker.security import user_name
from gateway.mqtt.client import BrokerUnavailableError, Message, MqttClient
from gateway.mqtt.topics import Response, Role, Up, parse
from gateway.refusing import refusing
from gateway.tasks import Tasks, first_of
from nodes.config import ConfigError, load_config
from nodes.edge_config import load_secrets
from nodes.events import EventLog
from nodes.exits import EXIT_BAD_CONFIG, Trouble, fail
from nodes.metrics import serving_metrics
from nodes.process import arguments, housekeeping, run, write_ready
from nodes.provider.config import GatewayPassword, ProviderGatewayConfig
from nodes.provider.links import PeerLinks
from nodes.provider.protocol import ANSWER

__all__ = ["main"]

PUBLISH_DEADLINE_S = 30.0
ANSWERS_IN_FLIGHT_MAX = 256  # beyond it the provider waits
COUNTS_S = 1.0


class ProviderGateway:
    """Runs until it is told to stop. Raises Trouble."""

    def __init__(self, config: ProviderGatewayConfig, password: str, events: EventLog) -> None:
        self._config = config
        self._events = events
        self.counts: Counter[str] = Counter()
        provider = config.provider
        user = user_name(Role.GATEWAY, config.node)
        self._client = MqttClient(
            config.broker.login(user, password, (f"m2m/1/{config.net}/up/+/+/+",))
        )
        self._links = PeerLinks(
            config.key,
            config.certificate,
            {provider.replica: provider.certificate},
            {provider.replica: (provider.host, provider.port)},
            events,
        )
        self._limiters = config.limits.relays(), config.limits.devices()

    async def run(self, stopping: asyncio.Event) -> None:
        self._links.wire.start()
        try:
            await first_of(
                self._client.run(),
                self._up(),
                self._down(),
                self._count(),
                housekeeping(self._events),
                self._begin(stopping),
            )
        except BrokerUnavailableError as error:
            raise Trouble(str(error)) from error
        finally:
            await self._links.wire.close()
            self._events.emit("counts", **self.counts)

    async def _begin(self, stopping: asyncio.Event) -> None:
        await self._client.ready()
        write_ready(self._config.ready, {})
        self._events.emit("started")
        await stopping.wait()

    async def _up(self) -> None:
        async for message in self._client.messages():
            try:
                with refusing():
                    self._carry(message)
            except PeerFault as fault:
                self.counts[f"refused:{fault.code}"] += 1

    def _carry(self, message: Message) -> None:
        topic = parse(message.topic)
        if not isinstance(topic, Up):
            raise PeerFault("bad-topic", message.topic)
        for limiter, source in zip(self._limiters, (topic.relay, topic.device), strict=True):
            if not limiter.admit(source):
                raise PeerFault("rate", f"too many calls of {source}")
        call = stamped_codec.decode(message.payload).body
        self._links.send(self._config.provider.replica, topic.device, call)
        self.counts["carried"] += 1

    async def _down(self) -> None:
        in_flight = asyncio.Semaphore(ANSWERS_IN_FLIGHT_MAX)
        async with Tasks() as publishing:
            while True:
                for _, carried in await self._links.turn():
                    await in_flight.acquire()
                    topic = str(Response(self._config.net, carried.device, ANSWER))
                    publishing.start(self._publish(topic, carried.message, in_flight))

    async def _publish(self, topic: str, payload: bytes, in_flight: asyncio.Semaphore) -> None:
        """A message that the broker does not take in time is dropped: its device asks again."""
        try:
            await self._client.publish(topic, payload, deadline_s=PUBLISH_DEADLINE_S)
        except BrokerUnavailableError:
            self.counts["answers-lost"] += 1
        finally:
            in_flight.release()

    async def _count(self) -> None:
        emitted: dict[str, int] = {}
        while True:
            await asyncio.sleep(COUNTS_S)
            if (counts := dict(self.counts)) != emitted:
                self._events.emit("counts", **counts)
                emitted = counts


def main() -> None:
    args = arguments("nodes.provider.gateway", __doc__)
    try:
        config = load_config(args.config, ProviderGatewayConfig)
        password = load_secrets(Path(config.passwords), GatewayPassword).gateway
    except ConfigError as error:
        fail(EXIT_BAD_CONFIG, str(error))

    async def serve(stopping: asyncio.Event) -> None:
        with contextlib.ExitStack() as stack:
            events = stack.enter_context(EventLog(Path(config.events or "/dev/null"), config.name))
            stack.enter_context(serving_metrics(config.metrics, config.name))
            await ProviderGateway(config, password, events).run(stopping)

    run(serve, directory=args.config.parent, exit_on_stdin_eof=args.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
