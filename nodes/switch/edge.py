"""A switch's wrappers around the parts of a gateway or device: links that can be shaped."""

from __future__ import annotations

from pathlib import Path

from gateway.mqtt.client import MqttClient, MqttSettings
from gateway.tasks import first_of
from nodes.around import EdgeAround
from nodes.ports import Events, Wire
from nodes.switch.links import SEAM, LinkOrder, LinksSeam, ShapedClient, ShapedWire
from nodes.switch.middle import SEAM as MIDDLE
from nodes.switch.middle import SENT as MIDDLE_SENT
from nodes.switch.middle import Middle, MiddleSeam
from nodes.switch.orders import orders_in
from nodes.switch.sensor import SEAM as SENSOR
from nodes.switch.sensor import SensorOrder, SensorSeam

__all__ = ["SwitchedDevice", "SwitchedEdge"]


class SwitchedEdge(EdgeAround):
    """`directory` is that of the orders."""

    def __init__(self, directory: str, events: Events) -> None:
        self.orders = orders_in(Path(directory))
        self._links = LinksSeam(events)
        self.orders.add(SEAM, LinkOrder, self._links.take)

    def wire(self, wire: Wire) -> Wire:
        return ShapedWire(wire, self._links)

    def client(self, settings: MqttSettings) -> MqttClient:
        return ShapedClient(settings, self._links)

    async def follow(self, events: Events) -> None:
        await self.orders.follow(events)


class SwitchedDevice(SwitchedEdge):
    """With `middle`, a man in the middle is on the device's connection to the broker."""

    def __init__(self, directory: str, events: Events, *, middle: bool) -> None:
        super().__init__(directory, events)
        self.sensor = SensorSeam(events)
        self.orders.add(SENSOR, SensorOrder, self.sensor.take)
        self._middle: MiddleSeam | None = None
        if middle:
            self._middle = MiddleSeam(Path(directory).with_name(MIDDLE_SENT))
            self.orders.add(MIDDLE, Middle, self._middle.take)

    def client(self, settings: MqttSettings) -> MqttClient:
        if self._middle is not None:
            settings = self._middle.between(settings)
        return super().client(settings)

    async def follow(self, events: Events) -> None:
        if self._middle is None:
            await super().follow(events)
        else:
            await first_of(super().follow(events), self._middle.serve())
