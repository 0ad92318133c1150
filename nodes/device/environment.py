"""`python -m nodes.device.environment --config FILE`: an environmental device.

It is a device itself, relays other devices' messages to the gateway, and sponsors the sensor
boards on its serial lines (`boards`). It signs their readings, so third parties must trust it for
them.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.envelope import signed_content
from gateway.bridge.edge import RequestKind, stamped_codec
from gateway.bridge.relay import Relay
from gateway.bridge.relays import ONLINE
from gateway.hops import NO_TRACE, Hop, Trace
from gateway.limits import RateLimiter
from gateway.mqtt.client import BrokerUnavailableError, Message, Presence
from gateway.mqtt.topics import Status, parse
from nodes.device.boards import Boards
from nodes.device.device import Device
from nodes.device.login import Login
from nodes.device.process import Parts, Work, device_main
from nodes.device.sender import Sender
from nodes.device.workload import Go
from nodes.edge_config import EnvironmentConfig
from nodes.events import CountedEvents, EventLog

__all__ = ["RelayUplink", "main", "with_boards"]

RELAYED_MAX = 256
CARRY_S_MAX = 5.0
DEVICE_RATE_PER_S, DEVICE_BURST = 50.0, 200.0
TOTAL_RATE_PER_S = 800.0  # below what a gateway takes of one relay
SOURCES_MAX = 4_096


class RelayUplink:
    """Stamps its own messages and sends them straight to the gateway. Relays others' messages, at
    most RELAYED_MAX at a time; a device sends a message again if it is not answered."""

    def __init__(self, net: str, events: EventLog, trace: Trace = NO_TRACE) -> None:
        self._net = net
        self._trace = trace
        self._events = events
        self._lost = CountedEvents(events, "relay-lost")
        self._boot = time.time_ns() // 1_000_000
        self._relays: dict[str, Relay] = {}

    def wrap(self, me: str, kind: RequestKind, body: bytes) -> tuple[str, bytes]:
        return self._relay(me).stamp(me, kind, body, _now_ms())

    def again(self, payload: bytes, tries: int) -> bytes:
        del tries
        return payload

    def unwrap(self, payload: bytes) -> bytes:
        return stamped_codec.decode(payload).body

    def subscriptions(self, me: str) -> tuple[str, ...]:
        return (f"m2m/1/{self._net}/req/+", f"m2m/1/{self._net}/status/+")

    def presence(self, me: str) -> Presence | None:
        return Presence(str(Status(self._net, me)), ONLINE, b"")

    async def other(self, login: Login, message: Message) -> None:
        relay = self._relay(login.me)
        came_ns = self._trace.now_ns()
        if isinstance(parse(message.topic), Status):
            relay.on_status(message.topic, message.payload, _now_ms())
            return
        passed_on = relay.on_request(message.topic, message.payload, _now_ms())
        if passed_on is None:
            return
        if len(login.relayed) >= RELAYED_MAX:
            raise PeerFault("relay-full", f"{RELAYED_MAX} messages wait for the broker")
        self._note(Hop.RELAY_IN, passed_on[1], came_ns)
        login.relayed.start(self.carry(login, *passed_on))

    async def carry(self, login: Login, topic: str, payload: bytes) -> None:
        """Publishes another device's message to the gateway."""
        self._note(Hop.RELAY_OUT, payload)
        try:
            await login.client.publish(topic, payload, deadline_s=CARRY_S_MAX)
        except BrokerUnavailableError as error:
            self._lost.add(topic=topic, reason=str(error))

    def _note(self, hop: Hop, payload: bytes, at_ns: int = 0) -> None:
        """Notes operations only: other messages have no id."""
        if self._trace.on:
            with contextlib.suppress(PeerFault):
                signed, _ = signed_content(stamped_codec.decode(payload).body)
                self._trace.request(hop, digest(signed), at_ns)

    def _relay(self, me: str) -> Relay:
        known = self._relays.get(me)
        if known is None:
            limiter = RateLimiter(
                rate_per_s=DEVICE_RATE_PER_S,
                burst=DEVICE_BURST,
                total_rate_per_s=TOTAL_RATE_PER_S,
                total_burst=TOTAL_RATE_PER_S,
                sources_max=SOURCES_MAX,
                clock=time.monotonic,
            )
            known = self._relays[me] = Relay(self._net, me, self._boot, limiter)
        return known


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def with_boards(config: EnvironmentConfig, events: EventLog) -> Work:
    """Work whose readings come from the device's boards."""
    boards = Boards(config.boards, Path(config.state), config.service)

    def work(
        device: Device, sender: Sender, login: Login, go: Go
    ) -> contextlib.AbstractAsyncContextManager[None]:
        return boards.readings(events, device, sender, login, go.start_ns)

    return work


def main() -> None:
    def make(config: EnvironmentConfig, net: str, events: EventLog, trace: Trace) -> Parts:
        return Parts(RelayUplink(net, events, trace), with_boards(config, events))

    device_main("environment", EnvironmentConfig, __doc__, make)


if __name__ == "__main__":
    main()
