"""What a host says of itself, even after trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.hosts.local import LocalHost
from testbed.provision.probe import Stamp, probe


@pytest.mark.parametrize("left", [b"", bytes(64), b"\xff", b'{"code": "ab'])
def test_a_stamp_that_a_power_cut_damaged_does_not_count(tmp_path: Path, left: bytes) -> None:
    """So `provision` builds the environment again, and needs nobody who removes it by hand."""
    with LocalHost(tmp_path) as host:
        host.put(left, "env/stamp.json")
        assert probe(host).stamp == Stamp()
