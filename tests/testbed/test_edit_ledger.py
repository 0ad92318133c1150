"""What is done to a ledger at rest is found when its store is opened, each kind of damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chain.pbft.effects import Durable
from nodes.replica.ledger_file import Damaged
from nodes.replica.sqlite_store import SqliteStore
from testbed import programs
from tests.nodes.store_support import GENESIS, sqlite, stored

BLOCKS = 40


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Of a replica that was killed: its log is not folded into the file."""
    alive = tmp_path / "alive"
    alive.mkdir()
    store = sqlite(alive)
    for height in range(1, BLOCKS + 1):
        store.put_fact(Durable("proposal", 0, height, b"fact"))
        store.put_block(height, stored(height))
        store.commit()
    shutil.copytree(alive, tmp_path / "dead")
    store.close()
    return tmp_path / "dead" / "ledger.db"


def edit(path: Path, verb: str, *more: str, seed: int = 7) -> dict[str, Any]:
    argv = programs.python(sys.executable, "faults/on_host/edit_ledger.py", verb, str(path))
    done = subprocess.run([*argv, str(seed), *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def read(path: Path) -> int:
    """All of it, as a replica does when it starts; the number of blocks. Raises Damaged."""
    store = SqliteStore(path, GENESIS, 2)
    try:
        store.facts()
        return len(list(store.blocks(1, store.height)))
    finally:
        store.close()


def test_a_killed_replica_has_all_its_blocks(ledger: Path) -> None:
    """So what the others find is what was done here."""
    assert read(ledger) == BLOCKS


@pytest.mark.parametrize("seed", range(6))
def test_one_bit_is_found(ledger: Path, seed: int) -> None:
    did = edit(ledger, "flip", seed=seed)
    with pytest.raises(Damaged, match=f"block {did['height']}: its checksum"):
        read(ledger)


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_is_found(ledger: Path, seed: int) -> None:
    edit(ledger, "truncate", seed=seed)
    with pytest.raises(Damaged):
        read(ledger)


@pytest.mark.parametrize("seed", range(4))
def test_a_torn_write_is_found(ledger: Path, seed: int) -> None:
    """SQLite takes the log up to there as the whole: only the mark beside it knows of more."""
    edit(ledger, "tear", seed=seed)
    with pytest.raises(Damaged, match="an older copy"):
        read(ledger)


def with_more(path: Path) -> None:
    store = SqliteStore(path, GENESIS, 2)
    store.put_block(BLOCKS + 1, stored(BLOCKS + 1))
    store.commit()
    store.close()


def test_an_older_copy_is_found(ledger: Path) -> None:
    old = str(ledger.with_name("old"))
    edit(ledger, "snapshot", old)
    with_more(ledger)
    assert edit(ledger, "rollback", old) == {"height_before": BLOCKS + 1, "height": BLOCKS}
    with pytest.raises(Damaged, match="an older copy"):
        read(ledger)


def test_an_older_copy_with_its_mark_is_not(ledger: Path) -> None:
    """Nothing on the machine can detect it: this is why such a replica counts as one of f."""
    old = str(ledger.with_name("old"))
    edit(ledger, "snapshot", old)
    with_more(ledger)
    edit(ledger, "rollback", old, "mark")
    assert read(ledger) == BLOCKS


def test_of_a_wiped_ledger_nothing_is_left(ledger: Path) -> None:
    ledger.with_name("ledger.db.damaged-1").touch()
    assert edit(ledger, "wipe") == {"height_before": BLOCKS}
    assert [*ledger.parent.iterdir()] == []
