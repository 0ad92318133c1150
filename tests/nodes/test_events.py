"""Events: complete lines, counted, readable after a crash; a full disk costs lines only."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.events import (
    FLUSH_BYTES,
    KINDS_MAX,
    LIMITED_BURST,
    LIMITED_PER_S,
    CountedEvents,
    EventLog,
    LimitedEvents,
    boot_id,
    read_events,
)


def test_events_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events", "r0") as log:
        log.emit("block", height=1)
        log.emit("view", view=2, seq=3)
    first, second = read_events(tmp_path / "events")
    assert (first.event, first.node, first.n, first.fields) == ("block", "r0", 1, {"height": 1})
    assert (second.n, second.fields) == (2, {"view": 2, "seq": 3})
    assert first.boot == boot_id()
    assert first.m <= second.m


def test_much_is_written_before_the_end_and_little_is_kept_in_memory(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events", "r0")
    for n in range(2 * FLUSH_BYTES // 100):
        log.emit("block", height=n, padding="x" * 50)
    assert len(read_events(tmp_path / "events")) > 0
    log.close()
    assert len(read_events(tmp_path / "events")) == 2 * FLUSH_BYTES // 100


def test_the_file_is_there_before_the_first_event(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events", "r0"):
        assert read_events(tmp_path / "events") == []


def test_a_restarted_node_appends(tmp_path: Path) -> None:
    for _ in range(2):
        with EventLog(tmp_path / "events", "r0") as log:
            log.emit("started")
    assert [event.n for event in read_events(tmp_path / "events")] == [1, 1]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events", "r0") as log:
        log.emit("one")
        log.emit("two")
    data = (tmp_path / "events").read_bytes()
    (tmp_path / "events").write_bytes(data[:-5])
    assert [event.event for event in read_events(tmp_path / "events")] == ["one"]


def test_a_full_disk_drops_lines_and_says_how_many() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    log = EventLog(full, "r0")
    log.emit("lost")
    log.flush()
    log.emit("lost too")
    log.flush()
    assert log.dropped == 2
    log.close()


@pytest.mark.parametrize("room", range(0, 200, 7))
def test_a_disk_that_becomes_full_within_a_line_spoils_that_line_only(
    tmp_path: Path, room: int
) -> None:
    """Whatever fits is kept whole; what comes when there is room again does not stick to a torn
    line; and every line that is missing is counted."""
    path = tmp_path / "events"
    with EventLog(path, "r0") as log:
        log.emit("before")
        log.flush()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
        try:
            log.emit("one")
            log.emit("two")
            log.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.emit("after")
    names = [event.event for event in read_events(path)]
    missing = read_events(path)[-1].fields["count"]
    assert names[0] == "before"
    assert names[-2:] == ["after", "events-dropped"]
    assert {"one", "two"} >= {*names[1:-2]}
    assert missing == 2 - len(names[1:-2])


def test_a_long_life_keeps_two_files_of_bounded_size_and_says_what_it_dropped(
    tmp_path: Path,
) -> None:
    path, older = tmp_path / "events", tmp_path / "events.1"
    with EventLog(path, "r0", bytes_max=10_000) as log:
        for n in range(2_000):
            log.emit("block", height=n)
            log.flush()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["events", "events.1"]
    assert max(path.stat().st_size, older.stat().st_size) < 11_000
    both = [*read_events(older), *read_events(path)]
    assert [each.n for each in both] == list(range(both[0].n, both[-1].n + 1)), "no gap"
    assert both[-1].fields["height"] == 1_999
    rotated = [each.fields["dropped_bytes"] for each in both if each.event == "events-rotated"]
    assert len(rotated) == 2
    assert all(int(str(each)) >= 10_000 for each in rotated)


def test_whoever_fills_the_log_does_not_remove_the_evidence(tmp_path: Path) -> None:
    """A replica that lied once may cause lines until two files are full."""
    path = tmp_path / "events"
    with EventLog(path, "r0", bytes_max=10_000) as log:
        log.emit("accuse", culprit=3, reason="equivocation-commit")
        for n in range(2_000):
            log.emit("block", height=n)
            log.flush()
        for n in range(2_000):
            log.emit("accuse", culprit=3, reason=str(n))
            log.flush()
    assert path.stat().st_size < 11_000, "also evidence is bounded"
    accused = [each.fields for each in read_events(path) if each.event == "accuse"]
    assert accused[0] == {"culprit": 3, "reason": "equivocation-commit"}


def test_a_peer_that_comes_and_goes_without_end_writes_few_lines(tmp_path: Path) -> None:
    now_s = 0.0
    with EventLog(tmp_path / "events", "r0") as log:
        links = LimitedEvents(log, lambda: now_s)
        for _ in range(3 * LIMITED_BURST):
            links.emit(3, "link-up", party=3)
        links.emit(2, "link-up", party=2)
        now_s = 1 / LIMITED_PER_S
        links.emit(3, "link-down", party=3)
    logged = [each.fields for each in read_events(tmp_path / "events")]
    assert len(logged) == LIMITED_BURST + 2
    assert logged[-2:] == [{"party": 2}, {"party": 3, "left_out": 2 * LIMITED_BURST}]


def test_a_line_that_an_earlier_life_left_torn_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'{"t":1,"m"')
    with EventLog(path, "r0") as log:
        log.emit("started")
    assert [each.event for each in read_events(path)] == ["started"]


def test_a_directory_that_comes_later_loses_no_process(tmp_path: Path) -> None:
    """A log that cannot be opened is tried again; what was lost meanwhile is counted."""
    path = tmp_path / "later" / "events"
    with EventLog(path, "r0") as log:
        log.emit("lost")
        log.flush()
        path.parent.mkdir()
        log.emit("kept")
    assert [each.event for each in read_events(path)] == ["kept", "events-dropped"]


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("events") / "events"
    path.write_bytes(data)
    read_events(path)


def test_a_flood_of_one_kind_takes_few_lines_and_hides_no_other(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events", "r0") as log:
        refused = CountedEvents(log, "refused")
        for n in range(1_000):
            refused.add("flood", reason="flood", number=n)
        refused.add("rare", reason="rare")
        for n in range(10 * KINDS_MAX):
            refused.add(n)
    logged = read_events(tmp_path / "events")
    counts = [event.fields["count"] for event in logged if event.fields.get("reason") == "flood"]
    assert counts == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert {"reason": "rare", "count": 1} in [event.fields for event in logged]
    assert len(logged) < KINDS_MAX + 30


def test_the_exact_count_of_a_flood_can_be_read(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events", "r0") as log:
        refused = CountedEvents(log, "refused")
        for n in range(1, 1_001):
            refused.add("flood", number=n)
        refused.add("rare", number=0)
        for _ in range(3):
            refused.emit_counts()
    logged = [each.fields for each in read_events(tmp_path / "events")]
    assert logged[-1] == {"number": 1_000, "count": 1_000}
    assert logged.count({"number": 0, "count": 1}) == 1
    assert len(logged) == 10 + 1 + 1
