"""Traces: what a process writes is read back, whatever ends it; what is no trace is refused."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.hops import NO_TRACE, Hop, request_key
from nodes.events import boot_id
from nodes.trace_file import MAGIC, RECORD, Mark, TraceFile, open_trace
from testbed.traces.read import Passed, TraceError, parse_trace, read_trace

REQUEST = bytes.fromhex("0000000000000007" + "ab" * 24)


class Ticking:
    """Each look is a nanosecond later."""

    def __init__(self) -> None:
        self.ns = 1000

    def __call__(self) -> int:
        self.ns += 1
        return self.ns


def trace(path: Path, every: int = 1, bytes_max: int = 4096) -> TraceFile:
    return TraceFile(
        path, every, bytes_max=bytes_max, monotonic_ns=Ticking(), wall_ns=lambda: 5_000_000
    )


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    written = trace(path)
    written.request(Hop.ARRIVED, REQUEST, 77, view=3, epoch=2)
    written.block(Hop.PREPARED, 12, view=2**32, epoch=65_537)
    written.close()
    (life,) = read_trace(path)
    assert life.passed[0] == Passed(Hop.ARRIVED, request_key(REQUEST), 77, 3, 2)
    now = life.passed[1]
    assert (now.hop, now.key, now.view, now.epoch) == (Hop.PREPARED, 12, 2**32 - 1, 1)
    assert now.at_ns > 1000
    assert life.boot == boot_id()
    assert [wall for _, wall in life.clocks] == [5_000_000]
    assert life.dropped == 0


def test_the_sample_is_the_same_in_every_process(tmp_path: Path) -> None:
    ids = [os.urandom(32) for _ in range(300)]
    kept = []
    for name in ("r0", "g"):
        written = trace(tmp_path / name, every=3, bytes_max=2**20)
        for each in ids:
            written.request(Hop.VERIFIED, each)
        written.close()
        (life,) = read_trace(tmp_path / name)
        assert life.every == 3
        kept.append([passed.key for passed in life.passed])
    assert kept[0] == kept[1] == [key for each in ids if (key := request_key(each)) % 3 == 0]


def test_a_trace_is_bounded_and_says_what_it_left_out(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    written = trace(path, bytes_max=2048)
    for height in range(10_000):
        written.block(Hop.EXECUTED, height)
    written.close()
    assert path.stat().st_size <= 2048
    (life,) = read_trace(path)
    assert [each.key for each in life.passed] == list(range(len(life.passed)))
    assert len(life.passed) + life.dropped >= 10_000


def test_a_killed_process_leaves_a_torn_record_and_its_next_life_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    killed = trace(path)
    killed.block(Hop.EXECUTED, 1)
    killed.flush()
    with path.open("ab") as file:
        file.write(b"torn")
    assert len(read_trace(path)) == 1
    again = trace(path)
    again.block(Hop.EXECUTED, 2)
    again.close()
    assert [[each.key for each in life.passed] for life in read_trace(path)] == [[1], [2]]


def test_without_a_path_or_a_disk_nothing_is_noted(tmp_path: Path) -> None:
    assert open_trace(None, 1) is NO_TRACE
    assert open_trace(str(tmp_path / "missing" / "trace.bin"), 1) is NO_TRACE
    NO_TRACE.request(Hop.ARRIVED, REQUEST)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_stops_the_trace_and_not_the_process() -> None:
    """/dev/full takes nothing."""
    with pytest.raises(OSError):  # noqa: PT011 - the kernel's words differ
        TraceFile(Path("/dev/full"))
    assert open_trace("/dev/full", 1) is NO_TRACE


START = RECORD.pack(Mark.START, 0, 0, 1, 1)


def record(what: int, at_ns: int = 1, key: int = 1) -> bytes:
    return RECORD.pack(what, 0, 0, at_ns, key)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a trace"),
        (b"SQLite format 3\0" * 8, "not a trace"),
        (MAGIC + record(Hop.ARRIVED), r"record 1 \(byte 24\): no START"),
        (MAGIC + START + record(999), r"record 2 \(byte 48\): there is no hop 999"),
        (MAGIC + START + record(Hop.ARRIVED, at_ns=2**63), "is no time"),
        (MAGIC + START + record(Mark.CLOCK, key=2**63), "is no time"),
        (MAGIC + record(Mark.START, key=0), "one request in 0"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_place(data: bytes, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        parse_trace(data, "x")


@given(st.binary(max_size=400), st.booleans())
@example(b"\x01\x00" + bytes(22), True)
def test_any_bytes_are_a_trace_or_a_clear_error(data: bytes, begins_well: bool) -> None:
    lives = []
    with contextlib.suppress(TraceError):  # and nothing else
        lives = parse_trace((MAGIC + START if begins_well else b"") + data, "file")
    assert sum(len(life.passed) for life in lives) <= len(data) // RECORD.size


def test_a_file_that_is_too_large_or_missing_is_named(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    for path in (large, tmp_path / "missing.bin"):
        with pytest.raises(TraceError, match=path.name):
            read_trace(path)
