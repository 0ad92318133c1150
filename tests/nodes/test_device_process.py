"""A device's process: trouble is one line that names the file, never a traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from nodes.edge_config import BrokerAddress, MobileConfig
from tests.chain.world import World
from tests.nodes.device_support import Log, until


@pytest.mark.parametrize("room_bytes", [1_000, 6_000])
def test_a_full_disk_is_waited_for_with_a_clear_line(tmp_path: Path, room_bytes: int) -> None:
    """Then the device goes on, as the same process."""
    (tmp_path / "genesis").write_bytes(World().genesis.encode())
    config = MobileConfig(
        name="phone",
        genesis="genesis",
        state="phone",
        voucher="voucher.pem",
        broker=BrokerAddress("127.0.0.1", 1),
        go="go.json",
        events="events.jsonl",
    )
    (tmp_path / "phone.json").write_bytes(msgspec.json.encode(config))
    printed = tmp_path / "stderr"
    command = [sys.executable, "-B", "-m", "nodes.device.mobile", "--config"]

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))

    with (
        printed.open("wb") as stderr,
        subprocess.Popen(
            [*command, str(tmp_path / "phone.json")],
            stderr=stderr,
            preexec_fn=small_disk,  # noqa: PLW1509 - the child runs no thread
        ) as process,
    ):
        try:
            until(lambda: "has room" in printed.read_text(), "the device says that it waits")
            assert "phone/outbox.sqlite" in printed.read_text()
            assert printed.read_text().count("\n") == 1
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            Log(tmp_path / "events.jsonl").first("started")
            assert "going on" in printed.read_text()
        finally:
            process.terminate()
    assert process.returncode == 0
