"""The baseline's provider: what it takes, what it refuses, and what whoever has its keys can do."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from chain.errors import PeerFault
from nodes.events import NoEvents
from nodes.provider.protocol import OK, Call, Reply, call, is_genuine, open_key
from nodes.provider.service import ProviderService
from nodes.provider.store import Escrow, ReadingStore, read_readings

DEVICE, OTHER = "ab" * 32, "cd" * 32
TOKEN = b"t" * 32
NOW_US = 1_700_000_000_000_000


class Provider:
    """A provider on a disk, and what its device knows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.open()

    def open(self) -> None:
        self.escrow = Escrow(self._directory / "escrow.sqlite")
        self.readings = ReadingStore(self._directory / "ledger.sqlite")
        self.service = ProviderService({DEVICE: TOKEN}, self.escrow, self.readings, NoEvents())

    def restart(self) -> None:
        """What was not committed is gone."""
        self.close()
        self.open()

    def close(self) -> None:
        self.escrow.close()
        self.readings.close()

    def ask(self, what: Call, device: str = DEVICE) -> Reply:
        found = self.service.handle(device, what, NOW_US)
        self.service.commit()
        return found

    def enrol(self) -> bytes:
        """The device's key."""
        found = self.ask(call(TOKEN, DEVICE, "enrol", 0, b""))
        assert found.status == OK
        assert is_genuine(TOKEN, DEVICE, found)
        return open_key(TOKEN, DEVICE, found.body)

    @property
    def stored(self) -> list[tuple[int, bytes]]:
        found = read_readings(self._directory / "ledger.sqlite")
        return [(each.counter, each.body) for each in found if each.kind == "data"]


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path)
    yield made
    made.close()


def test_a_device_enrols_and_its_readings_are_receipted_and_kept(provider: Provider) -> None:
    key = provider.enrol()
    found = provider.ask(call(key, DEVICE, "data", 1, b"21.5"))
    assert found.status == OK
    assert is_genuine(key, DEVICE, found)
    assert provider.stored == [(1, b"21.5")]


def test_an_answer_that_was_lost_is_given_again_also_after_a_restart(provider: Provider) -> None:
    key = provider.enrol()
    provider.ask(call(key, DEVICE, "data", 1, b"21.5"))
    provider.restart()
    assert provider.enrol() == key
    assert provider.ask(call(key, DEVICE, "data", 1, b"21.5")).status == OK
    assert provider.stored == [(1, b"21.5")]


def test_what_was_not_committed_has_no_effect(provider: Provider) -> None:
    key = provider.enrol()
    provider.service.handle(DEVICE, call(key, DEVICE, "data", 1, b"21.5"), NOW_US)
    provider.restart()
    assert provider.stored == []
    assert provider.ask(call(key, DEVICE, "data", 1, b"22")).status == OK


def test_old_counters_false_macs_and_strangers_are_refused(provider: Provider) -> None:
    key = provider.enrol()
    provider.ask(call(key, DEVICE, "data", 5, b"21.5"))
    status = {
        "old": provider.ask(call(key, DEVICE, "data", 4, b"99")).status,
        "same counter, other content": provider.ask(call(key, DEVICE, "data", 5, b"99")).status,
        "no key": provider.ask(call(b"x" * 32, DEVICE, "data", 6, b"99")).status,
        "another's key": provider.ask(call(key, OTHER, "data", 6, b"99"), OTHER).status,
        "no token": provider.ask(call(b"x" * 32, DEVICE, "enrol", 0, b"")).status,
    }
    assert status == {
        "old": "refused:old-counter",
        "same counter, other content": "refused:old-counter",
        "no key": "refused:bad-mac",
        "another's key": "refused:unknown-device",
        "no token": "refused:bad-mac",
    }
    assert provider.stored == [(5, b"21.5")]


def test_a_key_is_read_with_the_token_of_its_device_only(provider: Provider) -> None:
    sealed = provider.ask(call(TOKEN, DEVICE, "enrol", 0, b"")).body
    for token, device in ((b"u" * 32, DEVICE), (TOKEN, OTHER)):
        with pytest.raises(PeerFault, match="bad-key"):
            open_key(token, device, sealed)


def test_keys_in_escrow_are_readable_by_their_owner_only(
    provider: Provider, tmp_path: Path
) -> None:
    provider.enrol()
    for path in tmp_path.glob("escrow*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_reading_is_on_the_disk_before_it_is_answered(
    tmp_path: Path, connections: list[sqlite3.Connection]
) -> None:
    """FULL (2), as in a replica's ledger: the comparison would be unfair otherwise."""
    provider = Provider(tmp_path)
    synchronous = [each.execute("PRAGMA synchronous").fetchone() for each in connections]
    assert synchronous == [(2,), (2,)], "keys in escrow, and readings"
    provider.close()
