"""Wrappers around the parts of a gateway or device. An honest process has none. The same for a
replica is in `nodes.replica.around`.
"""

from __future__ import annotations

import asyncio

from gateway.mqtt.client import MqttClient, MqttSettings
from nodes.ports import Events, Wire

__all__ = ["EdgeAround"]


class EdgeAround:
    """Each method returns the replacement of a part; here, the part itself."""

    def wire(self, wire: Wire) -> Wire:
        """The wire to the replicas; gateways only."""
        return wire

    def client(self, settings: MqttSettings) -> MqttClient:
        """A login at the broker."""
        return MqttClient(settings)

    async def follow(self, events: Events) -> None:
        """Runs beside the process until it is cancelled."""
        await asyncio.Event().wait()
