"""Which bench later commands take for one that runs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from testbed.errors import ConfigurationError
from testbed.standing.description import Bench, find_bench, newest_bench, running


def test_a_bench_whose_process_is_gone_is_not_taken_for_whoever_has_its_number_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of `testbed up` leaves its files. `testbed down` signals the process that they name,
    so it must not be one that came later: only the lock, which the kernel takes back, counts."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = tmp_path / "m2m-1-left"
    home.mkdir()
    bench = Bench(
        pid=os.getpid(),
        home=str(home),
        broker_host="127.0.0.1",
        broker_port=1,
        broker_admin="",
        nodes={},
        vouchers={},
    )
    bench.file.write_bytes(msgspec.json.encode(bench))
    assert newest_bench() is None
    with running(home):
        assert newest_bench() == find_bench(bench.file) == bench
    assert newest_bench() is None
    with pytest.raises(ConfigurationError, match="has ended"):
        find_bench(bench.file)
