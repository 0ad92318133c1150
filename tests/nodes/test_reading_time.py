"""A board's reading carries when it was sampled and how sure that is; nothing is made up."""

from __future__ import annotations

import time

import msgspec
import pytest

from gateway.serial.host_session import Taken
from gateway.serial.session import Reading as SampledReading
from nodes.device import boards
from nodes.device.boards import _dated
from nodes.device.sender import _sampled_us
from nodes.device.wall_clock import Quality, wall_clock_quality

READING = SampledReading(boot=3, number=7, at_ms=5_000, values=(215,))


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


def test_the_kernel_is_asked() -> None:
    """Either it is synchronised and states a bound, or it is not."""
    quality = wall_clock_quality()
    assert (quality.clock == "ntp") == (quality.error_ms_max is not None)
