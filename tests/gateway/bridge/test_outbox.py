"""The outbox: what `put` returned for is there after kill -9; damage is said, never swallowed."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import Misuse
from gateway.bridge.outbox import Outbox, OutboxCorruptError, OutboxEntry, OutboxFullError


def digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4)).digest()


def fill(outbox: Outbox, count: int) -> None:
    for number in range(count):
        assert outbox.put(digest(number), f"topic/{number}", b"payload %d" % number)


def fill_up(outbox: Outbox) -> None:
    for number in range(100, 200):
        outbox.put(digest(number), "t", b"x" * 4096)


def test_an_exchange_happens_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", entries_max=3)
    fill(outbox, 3)
    fresh = [OutboxEntry(0, digest(n), "t", b"new") for n in (7, 8)]
    with pytest.raises(OutboxFullError):
        outbox.exchange(fresh, [digest(0)])
    assert [e.digest for e in outbox.pending()] == [digest(0), digest(1), digest(2)]
    outbox.exchange(fresh, [digest(0), digest(1), digest(99)])
    assert [e.digest for e in outbox.pending()] == [digest(2), digest(7), digest(8)]
    assert (len(outbox), outbox.payload_bytes) == (3, len(b"payload 2") + 6)


def test_entries_come_back_in_order_once_each_until_done(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    fill(outbox, 3)
    assert not outbox.put(digest(1), "another/topic", b"same digest")
    assert [e.payload for e in outbox.pending()] == [b"payload 0", b"payload 1", b"payload 2"]
    assert outbox.done(digest(0))
    assert not outbox.done(digest(0))
    first, second = outbox.pending()
    assert [e.topic for e in outbox.pending(after_seq=first.seq)] == [second.topic]
    assert (len(outbox), outbox.payload_bytes) == (2, 18)


def test_a_reopened_outbox_goes_on_where_it_stopped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    fill(outbox, 3)
    outbox.done(digest(2))
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.db", entries_max=3)
    assert [e.digest for e in outbox.pending()] == [digest(0), digest(1)]
    assert outbox.put(digest(9), "t", b"")
    assert outbox.pending()[-1].seq == 4  # numbers are never used twice
    with pytest.raises(OutboxFullError):
        outbox.put(digest(10), "t", b"")


def test_a_full_outbox_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", entries_max=3, bytes_max=100)
    outbox.put(digest(0), "t", b"x" * 90)
    with pytest.raises(OutboxFullError, match="bytes") as refused:
        outbox.put(digest(1), "t", b"x" * 11)
    assert refused.value.what == "bytes"
    outbox.put(digest(1), "t", b"x")
    outbox.put(digest(2), "t", b"x")
    with pytest.raises(OutboxFullError, match="3 entries"):
        outbox.put(digest(3), "t", b"")
    assert not outbox.put(digest(2), "t", b"x")  # known, so no room is needed
    outbox.done(digest(0))
    assert outbox.put(digest(3), "t", b"x" * 98)


def test_a_full_disk_is_a_refusal_not_damage(
    tmp_path: Path, connections: list[sqlite3.Connection]
) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    fill(outbox, 1)
    connections[0].execute("PRAGMA max_page_count=8")  # what SQLite answers on a full disk
    with pytest.raises(OutboxFullError) as refused:
        fill_up(outbox)
    assert refused.value.what == "disk"
    kept = len(outbox)
    assert len(outbox.pending(limit=1000)) == kept
    outbox.done(digest(100))
    assert outbox.put(digest(300), "t", b"x" * 100)


WRITER = """
import hashlib, sys
from contextlib import closing
from pathlib import Path
from gateway.bridge.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 1 << 31):
    digest = hashlib.sha256(number.to_bytes(4)).digest()
    outbox.put(digest, f"topic/{number}", b"payload %d" % number)
    print("put", number, flush=True)
    if number % 3 == 0:
        outbox.done(digest)
        print("done", number, flush=True)
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    """Six writers in a row are killed while they write; what each reported is exactly there."""
    path = tmp_path / "outbox.db"
    put: set[int] = set()
    done: set[int] = set()
    unsure: set[bytes] = set()  # the last step of each writer may be made and not reported
    for round_number in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(round_number * 100_000)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(20 + 7 * round_number)]
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.wait()
        for line in lines:
            word, number = line.split()
            (put if word == "put" else done).add(int(number))
        outbox = Outbox(path)
        waiting = {e.digest: e for e in outbox.pending(limit=1_000_000)}
        outbox.close()
        unsure.add(digest(max(put)))
        assert {digest(number) for number in put - done} <= set(waiting) | unsure
        assert not {digest(number) for number in done} & set(waiting)
        assert len(waiting) <= len(put - done) + round_number + 1


@pytest.mark.parametrize("damage", ["head", "topic", "payload", "half", "text", "foreign"])
def test_damage_is_said_with_the_name_of_the_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "outbox.db"
    if damage == "foreign":
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE entry(x)")
    else:
        outbox = Outbox(path)
        fill(outbox, 200)
        outbox.close()
        data = bytearray(path.read_bytes())
        match damage:
            case "head":
                data[0] ^= 1
            case "topic":  # no UTF-8 any more
                data[data.index(b"payload 77") - 1] ^= 0x80
            case "payload":
                data[data.index(b"payload 77")] ^= 1
            case "half":
                del data[len(data) // 2 :]
            case "text":
                data = bytearray(b"not a database at all" * 1000)
        path.write_bytes(data)
    with pytest.raises(OutboxCorruptError, match=r"outbox\.db"):
        Outbox(path).pending(limit=1000)


def test_an_outbox_has_one_owner(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    fill(outbox, 1)
    with pytest.raises(Misuse, match="another process"):
        Outbox(tmp_path / "outbox.db")


def test_the_file_is_private(tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox.db")
    assert (tmp_path / "outbox.db").stat().st_mode & 0o077 == 0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_it_behaves_as_an_ordered_map(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]]
) -> None:
    outbox = Outbox(tmp_path_factory.mktemp("box") / "outbox.db")
    model: dict[bytes, bytes] = {}
    for is_put, number in steps:
        key = digest(number)
        if is_put:
            assert outbox.put(key, "t", bytes([number])) is (key not in model)
            model.setdefault(key, bytes([number]))
        else:
            assert outbox.done(key) is (model.pop(key, None) is not None)
    assert [(e.digest, e.payload) for e in outbox.pending()] == list(model.items())
    assert (len(outbox), outbox.payload_bytes) == (len(model), len(model))
    outbox.close()


def test_a_message_is_on_the_disk_when_put_returns(
    tmp_path: Path, connections: list[sqlite3.Connection]
) -> None:
    """FULL (2): SQLite syncs its log in each commit. NORMAL would leave that for later."""
    with closing(Outbox(tmp_path / "outbox.db")):
        (connection,) = connections
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
