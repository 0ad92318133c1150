"""What a switch puts around the parts of a gateway or device: links that can be shaped."""

from __future__ import annotations

from pathlib import Path

from gateway.mqtt.client import MqttClient, MqttSettings
from nodes.around import EdgeAround
from nodes.ports import Events, Wire
from nodes.switch.links import SEAM, LinkOrder, LinksSeam, ShapedClient, ShapedWire
from nodes.switch.orders import Orders

__all__ = ["SwitchedEdge"]


class SwitchedEdge(EdgeAround):
    """`directory` is that of the orders."""

    def __init__(self, directory: str, events: Events) -> None:
        self.orders = Orders(Path(directory))
        self._links = LinksSeam(events)
        self.orders.add(SEAM, LinkOrder, self._links.take)

    def wire(self, wire: Wire) -> Wire:
        return ShapedWire(wire, self._links)

    def client(self, settings: MqttSettings) -> MqttClient:
        return ShapedClient(settings, self._links)

    async def follow(self, events: Events) -> None:
        await self.orders.follow(events)
