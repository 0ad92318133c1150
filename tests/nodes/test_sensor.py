"""Simulated sensors: redundant ones agree but for errors of their own; an order makes one lie."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.board import flash
from nodes.device.sender import Reading
from nodes.device.sensor import ROOM, RoomSensor
from nodes.switch.sensor import SensorLie, SensorOrder, SensorSeam

FIRMWARE = Path(flash.__file__).parent / "firmware/sensor.py"


def board(seed: int) -> Any:
    """The simulated sensor of a board; the firmware's file is no module of ours."""
    return runpy.run_path(str(FIRMWARE))["open_sensor"]({"kind": "simulated", "seed": seed})


@pytest.mark.parametrize("make", [lambda seed: RoomSensor(seed, "m1"), board])
def test_sensors_of_one_room_agree_and_each_has_its_own_error(make: Callable[[int], Any]) -> None:
    readings = [[sensor.read() for _ in range(200)] for sensor in map(make, range(1, 9))]
    assert len({tuple(each) for each in readings}) == 8, "no two sensors err alike"
    for each in readings:
        assert len({value for value, _ in each}) > 50, "there is noise"
        assert all(abs(temperature - ROOM[0]) < 600 for temperature, _ in each)
        assert all(abs(humidity - ROOM[1]) < 40 for _, humidity in each)
    again = make(3)
    assert [again.read() for _ in range(200)] == readings[2], "a seed repeats"


def test_mobiles_of_one_trial_differ() -> None:
    assert RoomSensor(7, "m1").read() != RoomSensor(7, "m2").read()


def test_boards_that_are_flashed_without_a_seed_differ(tmp_path: Path) -> None:
    seeds = set()
    for name in ("th01", "th02"):
        flash.prepare(tmp_path / name, name, flash.new_key())
        config = msgspec.json.decode((tmp_path / name / "config.json").read_bytes())
        seeds.add(config["sensor"]["seed"])
    assert len(seeds) == 2


class Device:
    """A device with a seam, and a clock in the test's hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.logged: list[dict[str, object]] = []
        self.seam = SensorSeam(self, lambda: self.now_s)
        self.number = 0

    def emit(self, event: str, **fields: object) -> None:
        self.logged.append({"event": event, **fields})

    def says(self, *values: int, board: str | None = None) -> tuple[int, ...]:
        self.number += 1
        reading = Reading(due_ns=0, number=self.number, values=values, board=board)
        return self.seam.altered(reading).values


def test_an_order_makes_one_sensor_lie_until_it_is_gone() -> None:
    device = Device()
    device.seam.take({"sensor.a.json": SensorOrder(SensorLie.BIAS, 500, ("th01",))})
    assert device.says(21_000, 450, board="th01") == (21_500, 450)
    assert device.says(21_000, 450, board="th02") == (21_000, 450)
    assert device.says(21_000, 450) == (21_000, 450)
    device.seam.take({})
    assert device.says(21_000, 450, board="th01") == (21_000, 450)
    (logged,) = device.logged
    assert logged["event"] == "sensor-lies"
    assert (logged["order"], logged["board"], logged["number"]) == ("sensor.a.json", "th01", 1)


def test_a_drift_grows_with_time_and_a_frozen_value_stays() -> None:
    device = Device()
    drift = SensorOrder(SensorLie.DRIFT, -100)
    device.seam.take({"sensor.d.json": drift})
    device.now_s = 2.0
    assert device.says(21_000) == (20_800,)
    device.seam.take({"sensor.d.json": drift, "sensor.x.json": SensorOrder(SensorLie.FREEZE)})
    assert [device.says(each) for each in (21_040, 21_080)] == [(21_040,), (21_040,)]
    device.seam.take({"sensor.d.json": drift})
    device.now_s = 3.0
    assert device.says(21_000) == (20_700,), "the older order holds on, from its own begin"
