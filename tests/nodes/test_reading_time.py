"""A board's reading carries when it was sampled and how sure that is; nothing is made up."""

from __future__ import annotations

import time

import msgspec
import pytest

from chain.keys import node_id
from chain.ledger.envelope import read_operation, sign_operation
from chain.ledger.operations import Data
from gateway.serial.host_session import Taken
from gateway.serial.session import BoardReading, reading_of
from gateway.serial.tinycbor import CborError
from nodes.device import boards
from nodes.device.boards import _dated
from nodes.device.sender import Reading, _sampled_us
from nodes.device.wall_clock import Quality, wall_clock_quality
from tests.chain.world import signer

READING = BoardReading(boot=3, number=7, at_ms=5_000, values=(215,))


def taken(age_ms: int | None) -> Taken:
    if age_ms is None:
        return Taken(READING, missed=0, sampled_ms=None, uncertainty_ms=None)
    return Taken(READING, 0, time.monotonic_ns() // 10**6 - age_ms, 4)


def clock(monkeypatch: pytest.MonkeyPatch, quality: Quality) -> None:
    monkeypatch.setattr(boards, "wall_clock_quality", lambda: quality)


def test_a_synchronised_host_says_how_large_the_error_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of the line and that of its own clock."""
    clock(monkeypatch, Quality("ntp", 30))
    reading = _dated(taken(60_000), "th01", sponsored_ns=0)
    assert (reading.clock, reading.uncertainty_ms) == ("ntp", 34)
    sampled_us = _sampled_us(reading)
    assert sampled_us is not None
    assert 60.0 <= time.time() - sampled_us / 1e6 < 120.0


def test_a_host_that_is_not_synchronised_claims_no_quality(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock(monkeypatch, Quality("none", None))
    reading = _dated(taken(60_000), "th01", sponsored_ns=0)
    assert (reading.clock, reading.uncertainty_ms) == ("none", None)


def test_a_reading_of_an_earlier_boot_has_the_boards_own_clock_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When that boot was, nobody knows: the time of its arrival is not the time of sampling."""
    clock(monkeypatch, Quality("ntp", 30))
    reading = _dated(taken(None), "th01", sponsored_ns=0)
    assert (reading.clock, reading.sampled_ns, reading.uncertainty_ms) == ("boot", None, None)
    assert (reading.boot, reading.board_ms) == (3, 5_000)
    assert _sampled_us(reading) is None
    assert b"sampled_ns" not in msgspec.json.encode(reading)


@pytest.mark.parametrize("age_ms", [-(2**64), -(2**53), -3_600_000, 2**53, 2**64])
def test_a_board_that_claims_an_impossible_time_does_not_stop_its_device(age_ms: int) -> None:
    """The reading is on disk before it is signed. If it could not be signed, the device would fail
    at each start, and a relay with it."""
    reading = _dated(taken(age_ms), "th01", sponsored_ns=0)
    assert (reading.clock, reading.sampled_ns, reading.uncertainty_ms) == ("boot", None, None)
    kept = msgspec.json.decode(msgspec.json.encode(reading), type=Reading)
    key = signer("host")
    operation = Data(
        network=bytes(32),
        node=node_id(key.public),
        counter=1,
        service="telemetry",
        payload=msgspec.json.encode(kept),
        time_us=_sampled_us(kept),
        clock=kept.clock,
    )
    assert read_operation(sign_operation(operation, key), bytes(32)).operation == operation


def test_a_reading_that_is_sampled_within_the_error_of_the_line_is_dated() -> None:
    assert _dated(taken(-4), "th01", sponsored_ns=0).sampled_ns is not None


@pytest.mark.parametrize("value", [-(2**63) - 1, 2**63, -(2**64)])
def test_a_value_that_no_payload_can_hold_is_refused_on_the_line(value: int) -> None:
    largest = [-(2**63), 2**63 - 1]
    assert list(reading_of([1, 1, 0, largest]).values) == largest
    with pytest.raises(CborError):
        reading_of([1, 1, 0, [value]])


def test_the_kernel_is_asked() -> None:
    """Either it is synchronised and states a bound, or it is not."""
    quality = wall_clock_quality()
    assert (quality.clock == "ntp") == (quality.error_ms_max is not None)
