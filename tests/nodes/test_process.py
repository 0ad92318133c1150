"""What every process shares: files that are whole, and still there after the power failed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nodes.disk import write_atomically
from nodes.output import OUTPUT_BYTES_MAX, cut_output


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


def test_output_that_goes_to_a_file_is_bounded_and_what_is_dropped_is_counted(
    tmp_path: Path,
) -> None:
    """systemd opens a unit's log to append, once, and holds it as long as the unit lives."""
    log, older = tmp_path / "unit.log", tmp_path / "unit.log.1"
    with log.open("ab", buffering=0) as output:
        for text in (b"first\n", b"second\n", b"third\n"):
            output.write(text)
            cut_output(output.fileno(), bytes_max=100)
        assert log.read_bytes() == b"first\nsecond\nthird\n", "below the limit"
        cut_output(output.fileno(), bytes_max=10)
        assert older.read_bytes() == b"first\nsecond\nthird\n"
        assert log.read_bytes() == b"0 bytes of older output were dropped\n"
        output.write(b"fourth\n")
        cut_output(output.fileno(), bytes_max=10)
        assert older.read_bytes().endswith(b"fourth\n")
        assert log.read_bytes() == b"19 bytes of older output were dropped\n"
    older.unlink()
    older.mkdir()  # no copy can be made: a full disk
    with log.open("ab", buffering=0) as output:
        output.write(b"fifth\n")
        cut_output(output.fileno(), bytes_max=10)
    dropped = older.stat().st_size + len(b"19 bytes of older output were dropped\nfifth\n")
    assert log.read_bytes() == b"%d bytes of older output were dropped\n" % dropped


def test_a_process_bounds_its_output_while_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "unit.log"
    log.write_bytes(b"x" * (OUTPUT_BYTES_MAX + 1))
    main = "from pathlib import Path; from nodes.process import run\n"
    main += "async def main(stopping): await stopping.wait()\n"
    main += "run(main, directory=Path('.'), exit_on_stdin_eof=False)"
    with (
        log.open("ab") as output,
        subprocess.Popen([sys.executable, "-c", main], stderr=output) as process,
    ):
        deadline_s = time.monotonic() + 60
        while log.stat().st_size > OUTPUT_BYTES_MAX and time.monotonic() < deadline_s:
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        assert process.wait(60) == 0
    assert log.read_bytes() == b"0 bytes of older output were dropped\n"
    assert log.with_name("unit.log.1").stat().st_size == OUTPUT_BYTES_MAX + 1


WRITES_FAIL = """
import sqlite3
from pathlib import Path
from nodes.exits import Trouble
from nodes.process import run
left = [{failures}]
async def main(stopping):
    if left[0]:
        left[0] -= 1
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        raise Trouble(f"r1: {{error}}") from error
run(main, directory=Path("."), exit_on_stdin_eof=False)
"""


@pytest.mark.parametrize(("failures", "code"), [(1, 0), (2, 3)])
def test_a_write_that_failed_while_there_is_room_is_tried_once_more(
    tmp_path: Path, failures: int, code: int
) -> None:
    """A quota may have room again when one looks; a medium that fails goes on failing."""
    script = WRITES_FAIL.format(failures=failures)
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert ended.returncode == code
    assert b"Traceback" not in ended.stderr
    assert ended.stderr.count(b"r1: disk I/O error") == failures
