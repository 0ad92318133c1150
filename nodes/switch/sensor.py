"""The seam `sensor` of a device: the readings that it sends.

While an order is in force, the first value of each reading is false, and the device signs it like
a true one. Each false reading is logged as "sensor-lies", so that a judge knows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum

import msgspec

from nodes.device.device import Device
from nodes.device.login import Login
from nodes.device.process import Work
from nodes.device.sender import Reading, Sender
from nodes.device.workload import Go
from nodes.ports import Events

__all__ = ["SEAM", "SensorLie", "SensorOrder", "SensorSeam"]

SEAM = "sensor"
BY_MAX = 1_000_000_000


class SensorLie(StrEnum):
    """How a sensor lies."""

    BIAS = "bias"
    DRIFT = "drift"
    FREEZE = "freeze"


class SensorOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`by` is in the sensor's unit: added to each value (bias), or once more each second (drift).
    `sensors`: the boards that lie, "" for the device's own sensor."""

    lie: SensorLie
    by: int = 0
    sensors: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if abs(self.by) > BY_MAX:
            raise ValueError(f"by: {self.by}; at most {BY_MAX}")


class SensorSeam:
    """Of several orders for one sensor the newest counts."""

    def __init__(self, events: Events, now_s: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._now_s = now_s
        self._orders: dict[str, tuple[str, SensorOrder]] = {}
        self._since_s: dict[str, float] = {}
        self._frozen: dict[tuple[str, str], int] = {}

    def take(self, orders: Mapping[str, SensorOrder]) -> None:
        """Replaces the orders in force; the newest is last."""
        self._orders = {
            sensor: (name, order) for name, order in orders.items() for sensor in order.sensors
        }
        self._since_s = {name: self._since_s.get(name, self._now_s()) for name in orders}
        self._frozen = {key: value for key, value in self._frozen.items() if key[0] in orders}

    def altered(self, reading: Reading) -> Reading:
        """What is sent in place of a reading."""
        sensor = reading.board or ""
        found = self._orders.get(sensor)
        if found is None or not reading.values:
            return reading
        name, order = found
        true, *rest = reading.values
        match order.lie:
            case SensorLie.BIAS:
                value = true + order.by
            case SensorLie.DRIFT:
                value = true + round(order.by * (self._now_s() - self._since_s[name]))
            case SensorLie.FREEZE:
                value = self._frozen.setdefault((name, sensor), true)
        self._events.emit(
            "sensor-lies",
            order=name,
            board=reading.board,
            board_boot=reading.boot,
            number=reading.number,
            true=true,
            told=value,
        )
        return msgspec.structs.replace(reading, values=(value, *rest))

    def around(self, work: Work) -> Work:
        """The same work, whose readings pass through here."""

        def run(
            device: Device, sender: Sender, login: Login, go: Go
        ) -> AbstractAsyncContextManager[None]:
            sender.transform = self.altered
            return work(device, sender, login, go)

        return run
