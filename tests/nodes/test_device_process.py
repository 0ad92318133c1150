"""A device's process: trouble is one line that names the file, never a traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from nodes.edge_config import BrokerAddress, MobileConfig
from nodes.process import EXIT_TROUBLE
from tests.chain.world import World


@pytest.mark.parametrize("room_bytes", [1_000, 6_000])
def test_a_full_disk_ends_a_device_with_a_clear_line(tmp_path: Path, room_bytes: int) -> None:
    (tmp_path / "genesis").write_bytes(World().genesis.encode())
    config = MobileConfig(
        name="phone",
        genesis="genesis",
        state="phone",
        voucher="voucher.pem",
        broker=BrokerAddress("127.0.0.1", 1),
        go="go.json",
    )
    (tmp_path / "phone.json").write_bytes(msgspec.json.encode(config))

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))

    ended = subprocess.run(
        [
            sys.executable,
            "-B",
            "-m",
            "nodes.device.mobile",
            "--config",
            str(tmp_path / "phone.json"),
        ],
        preexec_fn=small_disk,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == EXIT_TROUBLE, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "phone/outbox.sqlite" in ended.stderr
