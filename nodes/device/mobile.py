"""`python -m nodes.device.mobile --config FILE`: a mobile device, carried by a user.

Its messages go to all relays; one of them carries each message. At each time of its plan it sends
a reading of its sensor.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import msgspec

from chain.errors import PeerFault
from gateway.bridge.edge import Ask, RequestKind, ask_codec
from gateway.hops import Trace
from gateway.mqtt.client import Message, Presence
from gateway.mqtt.topics import Request
from gateway.tasks import Tasks
from nodes.device.device import Device
from nodes.device.login import Login
from nodes.device.process import Parts, device_main
from nodes.device.sender import Reading, Sender
from nodes.device.sensor import RoomSensor
from nodes.device.wall_clock import wall_clock_quality
from nodes.device.workload import Go, until
from nodes.edge_config import MobileConfig
from nodes.events import EventLog

__all__ = ["MobileUplink", "Readings", "main", "make"]


class MobileUplink:
    """Messages go to the relays; `gateway.bridge.relays` says which one carries each."""

    def __init__(self, net: str) -> None:
        self._net = net

    def wrap(self, me: str, kind: RequestKind, body: bytes) -> tuple[str, bytes]:
        return str(Request(self._net, me)), ask_codec.encode(Ask(kind=kind, body=body))

    def again(self, payload: bytes, tries: int) -> bytes:
        """Another relay carries the next try, because a relay may drop what it gets."""
        ask = ask_codec.decode(payload)
        return ask_codec.encode(msgspec.structs.replace(ask, tries=min(tries, 255)))

    def unwrap(self, payload: bytes) -> bytes:
        return ask_codec.decode(payload).body

    def subscriptions(self, me: str) -> tuple[str, ...]:
        return ()

    def presence(self, me: str) -> Presence | None:
        return None

    async def other(self, login: Login, message: Message) -> None:
        raise PeerFault("bad-topic", message.topic)


class Readings:
    """A reading is due at each time of the plan, even if earlier ones are not answered. A change of
    the key skips none. A restarted process leaves out readings that were due before its start: the
    earlier process may have sent them.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._sensor: RoomSensor | None = None
        self._taken = 0  # the number of the last one
        self._began_ns = time.time_ns()

    @contextlib.asynccontextmanager
    async def at_their_times(
        self, device: Device, sender: Sender, login: Login, go: Go
    ) -> AsyncIterator[None]:
        since_ns = self._began_ns if device.state.starts > 1 else 0
        async with Tasks() as tasks:
            taking = tasks.start(self._take(sender, go, since_ns))
            yield
            await taking

    async def _take(self, sender: Sender, go: Go, since_ns: int) -> None:
        self._sensor = sensor = self._sensor or RoomSensor(go.seed, self._device)
        for number, offset_ms in enumerate(go.sends_ms, 1):
            due_ns = go.due_ns(offset_ms)
            if number <= self._taken or due_ns < since_ns:
                continue
            await until(due_ns)
            clock = wall_clock_quality().clock
            reading = Reading(due_ns=due_ns, number=number, values=sensor.read(), clock=clock)
            await sender.put_when_possible(reading)
            self._taken = number


def make(config: MobileConfig, net: str, events: EventLog, trace: Trace) -> Parts:
    """The parts of a mobile device."""
    return Parts(MobileUplink(net), Readings(config.name).at_their_times)


def main() -> None:
    device_main("mobile", MobileConfig, __doc__, make)


if __name__ == "__main__":
    main()
