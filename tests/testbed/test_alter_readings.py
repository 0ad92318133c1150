"""The program that alters a reading in a provider's store, while the provider stands still."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from nodes.provider.protocol import call, is_genuine
from nodes.provider.store import Escrow, ReadingStore, StoredReading, read_readings
from testbed import programs

PHONE, FLOODER = "ab" * 32, "cd" * 32
KEY = bytes(32)
SENSORS, RANDOM = b'{"values":[21]}', bytes.fromhex("f6db00ff")


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """The readings and the keys of a phone and a flooder."""
    escrow = Escrow(tmp_path / "escrow")
    for device in (PHONE, FLOODER):
        escrow.keep(device, KEY)
    escrow.commit()
    escrow.close()
    return tmp_path / "readings", tmp_path / "escrow"


def keep(path: Path, *said: tuple[str, bytes]) -> None:
    """Each in a batch of its own, in this order."""
    readings = ReadingStore(path)
    for counter, (device, body) in enumerate(said, 1):
        mac = call(KEY, device, "data", counter, body).mac
        readings.add(StoredReading(device, counter, counter, 0, "data", body, mac))
        readings.commit()
    readings.close()


def alter(stores: tuple[Path, Path]) -> str:
    argv = programs.python(sys.executable, "attacks/on_host/alter_readings.py", *map(str, stores))
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_newest_reading_of_a_sensor_is_altered_and_what_a_flood_sent_is_not(
    stores: tuple[Path, Path],
) -> None:
    """A provider may still work off a flood's messages when it is stopped."""
    keep(stores[0], (PHONE, b'{"values":[7]}'), (PHONE, SENSORS), (FLOODER, RANDOM))
    changed = b'{"values": [1021]}'
    assert alter(stores) == f"{PHONE}/2/{sha256(changed).hexdigest()}"
    found = list(read_readings(stores[0]))
    assert [each.body for each in found] == [b'{"values":[7]}', changed, RANDOM]
    made = call(KEY, PHONE, "data", 2, changed)
    assert is_genuine(KEY, PHONE, made)
    assert found[1].mac == made.mac


@pytest.mark.parametrize("body", [RANDOM, b"21", b"{}"])
def test_a_store_without_a_sensors_reading_is_left_alone(
    stores: tuple[Path, Path], body: bytes
) -> None:
    keep(stores[0], (FLOODER, body))
    assert alter(stores) == ""
    assert [each.body for each in read_readings(stores[0])] == [body]
