"""One conformance suite over every store: facts, blocks, pruning; and what readers see."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.block import Block, Record
from chain.errors import Misuse
from chain.pbft.effects import Durable
from nodes.ports import PRUNE_BLOCKS_MAX, Store, Stored
from nodes.replica.ledger_copy import copy_ledger
from nodes.replica.ledger_file import open_readonly
from nodes.replica.memory_store import MemoryStore
from tests.nodes.store_support import GENESIS, filled, sqlite, stored

pytestmark = pytest.mark.usefixtures("short_log")

STORES: dict[str, Callable[[Path], Store]] = {"memory": lambda _: MemoryStore(), "sqlite": sqlite}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: Store = STORES[request.param](tmp_path)
    return made


def test_old_blocks_are_pruned_a_few_at_a_time(store: Store) -> None:
    """Only what may go: records of data."""
    data, other = b"\xa5\x62op\x64data", b"\xa5\x62op\x65enrol"
    for height in range(1, 12):
        records = (Record(data, b"item"), Record(other, b"item"))
        store.put_block(height, Stored(Block(stored(height).block.head, records), bytes(64)))
    store.prune(-3)
    assert store.pruned == 0
    while store.pruned < 9:
        before = store.pruned
        store.prune(9)
        assert before < store.pruned <= before + PRUNE_BLOCKS_MAX
    store.prune(5)
    store.commit()
    assert store.pruned == 9
    items = [tuple(record.item for record in each.block.records) for each in store.blocks(1, 11)]
    assert items == [(b"", b"item")] * 9 + [(b"item", b"item")] * 2
    assert store.heads(1, 11) == [stored(height).block.head for height in range(1, 12)]


def test_what_was_pruned_is_known_after_a_restart(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    for height in range(1, 4):
        store.put_block(height, stored(height))
    store.prune(2)
    store.commit()
    store.close()
    again = sqlite(tmp_path)
    assert (again.pruned, again.height) == (2, 3)
    assert len(list(again.blocks(1, 3))) == 3, "their checksums hold"
    again.close()
    with open_readonly(tmp_path / "ledger.db") as file:
        assert len(list(file.blocks())) == 3


def test_a_later_fact_of_the_same_key_replaces_the_earlier(store: Store) -> None:
    store.put_fact(Durable("proposal", 0, 1, b"old"))
    store.put_fact(Durable("proposal", 1, 1, b"other view"))
    store.put_fact(Durable("proposal", 0, 1, b"new"))
    store.commit()
    assert store.facts() == [
        Durable("proposal", 0, 1, b"new"),
        Durable("proposal", 1, 1, b"other view"),
    ]


def test_a_fact_is_found_by_its_key_even_before_it_is_committed(store: Store) -> None:
    for view, seq in ((0, 1), (1, 1), (0, 2)):
        store.put_fact(Durable("proposal", view, seq, b"%d of %d" % (seq, view)))
    assert store.fact("proposal", 1, 1) == Durable("proposal", 1, 1, b"1 of 1")
    assert store.fact("proposal", 1, 2) is None
    assert store.fact("prepared", 0, 1) is None


def test_forget_trims_votes_up_to_a_sequence_and_keeps_the_rest(store: Store) -> None:
    for kind in ("proposal", "prepared", "stable", "view"):
        for seq in (1, 2, 3):
            store.put_fact(Durable(kind, 0, seq, b""))
    store.forget(2)
    assert [(fact.kind, fact.seq) for fact in store.facts()] == [
        ("prepared", 3),
        ("proposal", 3),
        *[("stable", seq) for seq in (1, 2, 3)],
        *[("view", seq) for seq in (1, 2, 3)],
    ]


def test_blocks_come_back_by_range_even_before_they_are_committed(store: Store) -> None:
    for height in range(1, 6):
        store.put_block(height, stored(height))
    assert store.height == 5
    assert list(store.blocks(2, 4)) == [stored(2), stored(3), stored(4)]
    assert store.heads(4, 9) == [stored(4).block.head, stored(5).block.head]
    assert list(store.blocks(6, 9)) == []
    assert list(store.blocks(0, 0)) == []


def test_a_gap_between_blocks_is_our_bug(store: Store) -> None:
    store.put_block(1, stored(1))
    with pytest.raises(Misuse):
        store.put_block(3, stored(3))


def test_the_next_stable_checkpoint_is_found(store: Store) -> None:
    for seq in (64, 192, 128):
        store.put_fact(Durable("stable", 0, seq, b"proof %d" % seq))
    found = [store.stable_from(seq) for seq in (0, 64, 65, 192, 193)]
    assert [fact and fact.seq for fact in found] == [64, 64, 128, 192, None]
    store.put_fact(Durable("prepared", 0, 193, b"certificate"))
    store.put_fact(Durable("stable", 0, 192, b"again"))
    assert store.stable_from(193) is None
    again = store.stable_from(129)
    assert again == Durable("stable", 0, 192, b"again")


@settings(max_examples=30)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("put"),
                st.sampled_from(["proposal", "prepared", "view", "stable"]),
                st.integers(0, 2),
                st.integers(0, 6),
                st.binary(max_size=8),
            ),
            st.tuples(st.just("forget"), st.integers(0, 6)),
            st.tuples(st.just("commit")),
        ),
        max_size=30,
    )
)
def test_both_stores_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """Any history leaves the same facts in memory and on disk, also after reopening."""
    directory = tmp_path_factory.mktemp("store")
    memory, disk = MemoryStore(), sqlite(directory)
    for store in (memory, disk):
        for name, *values in steps:
            match name:
                case "put":
                    store.put_fact(Durable(*values))  # type: ignore[arg-type]
                case "forget":
                    store.forget(*values)  # type: ignore[arg-type]
                case _:
                    store.commit()
    assert disk.facts() == memory.facts()
    assert disk.stable_from(3) == memory.stable_from(3)
    disk.close()
    again = sqlite(directory)
    assert again.facts() == memory.facts()
    again.close()


def test_what_was_committed_is_there_after_reopening_and_for_readers(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with open_readonly(path) as reader:
        assert reader.genesis == GENESIS
        assert reader.replica == 2
        assert list(reader.blocks(39)) == [stored(39), stored(40)]
    again = sqlite(tmp_path)
    assert again.height == 40
    assert len(again.facts()) == 40
    again.put_fact(Durable("stable", 0, 40, b"proof"))
    again.commit()
    copy_ledger(path, tmp_path / "copy.db")  # of a running replica
    again.close()
    with open_readonly(tmp_path / "copy.db") as copy:
        assert copy.height == 40
        assert list(copy.stable()) == [Durable("stable", 0, 40, b"proof")]


def test_a_reader_sees_what_a_running_replica_has_committed(tmp_path: Path) -> None:
    """It is in the log beside the database, and not yet folded into it."""
    store = sqlite(tmp_path)
    store.put_block(1, stored(1))
    store.commit()
    with open_readonly(store.path) as reader:
        assert list(reader.blocks()) == [stored(1)]
    store.close()


def test_a_ledger_on_a_medium_that_takes_no_writes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite wants to make a file beside it, and is refused."""

    class Refused(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("unable to open database file")

    connect = sqlite3.connect

    def on_the_medium(name: str, **options: Any) -> sqlite3.Connection:
        immutable = name.endswith("?immutable=1")
        return connect(name, factory=sqlite3.Connection if immutable else Refused, **options)

    path = filled(tmp_path, 2)
    monkeypatch.setattr(sqlite3, "connect", on_the_medium)
    with open_readonly(path) as reader:
        assert list(reader.blocks()) == [stored(1), stored(2)]


def test_rows_are_shown_as_they_stand_there(tmp_path: Path) -> None:
    """Also one of a height that there is not."""
    path = filled(tmp_path, 2)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO blocks VALUES (0, 'a', 'b', 'c', 7)")
    with open_readonly(path) as reader:
        assert [row[0] for row in reader.rows()] == [0, 1, 2]
        assert next(reader.rows()) == (0, "a", "b", "c", 7)


def test_a_commit_may_run_in_another_thread(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    store.put_block(1, stored(1))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.commit).result()
    store.close()
    assert sqlite(tmp_path).height == 1


def test_a_store_is_untouched_until_its_first_commit(tmp_path: Path) -> None:
    for _ in range(2):
        store = sqlite(tmp_path)
        assert store.untouched
        store.close()
    store = sqlite(tmp_path)
    store.put_block(1, stored(1))
    store.close()
    assert not sqlite(tmp_path).untouched


def test_a_number_of_the_host_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    assert store.noted("abstention") is None
    store.note("abstention", 7)
    store.note("abstention", 8)
    assert store.noted("abstention") == 8
    store.note("abstention", None)
    assert store.noted("abstention") is None
    store.close()
    assert sqlite(tmp_path).noted("abstention") is None
