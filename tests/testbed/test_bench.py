"""The bench runs real replicas and reports figures that hang together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.bench import limit
from testbed.bench.consensus import Plan, measure
from testbed.bench.limit import verification_limit
from testbed.bench.load import Device
from testbed.commands.bench import app
from testbed.errors import ConfigurationError


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_requests_are_measured_to_the_end(store: str) -> None:
    result = measure(Plan(in_flight=8, requests=50, store=store, limit=False))
    assert result.requests >= 50
    assert 0 < result.blocks <= result.requests
    assert 0 < result.latency_ms.p50 <= result.latency_ms.p99 <= result.latency_ms.max
    assert len(result.rss_mb_start) == len(result.rss_mb_end) == 4
    assert result.cpu_us_per_request > 0


def test_the_limit_is_found() -> None:
    found = verification_limit(4, 512, 0.2)
    assert found.requests_per_s > 0
    assert found.cpu_us_per_request > 0


def test_the_limit_takes_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key in 256 ends in a zero byte: padding it with zeros once cut that byte off."""

    class LastByteIsZero(Device):
        def __init__(self) -> None:
            while True:
                super().__init__()
                if self.signer.public.endswith(b"\0"):
                    return

    monkeypatch.setattr(limit, "Device", LastByteIsZero)
    assert verification_limit(1, 512, 0.05).requests_per_s > 0


def test_the_command_prints_json_for_machines() -> None:
    ended = CliRunner().invoke(
        app, ["consensus", "--in-flight", "4", "--requests", "20", "--store", "memory", "--json"]
    )
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    assert printed["schema"] == "testbed.bench.consensus/1"
    assert printed["ratio"] > 0


def test_a_profile_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["consensus", "--profile", str(tmp_path / "missing")])
    assert isinstance(ended.exception, ConfigurationError)
    assert "missing" in str(ended.exception)
