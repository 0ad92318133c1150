"""What every process shares: files that are whole, and still there after the power failed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nodes.process import write_atomically


def test_a_file_that_was_written_is_there_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content reaches the disk before the name does, and the name before we return: a counter
    that was reserved must not come again, and a board forgets what was noted of it."""
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    synced: list[tuple[bool, bytes]] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.read_bytes()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_atomically(path, b"new")
    assert synced == [(False, b"old"), (True, b"new")]
