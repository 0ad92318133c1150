"""The simulated disk keeps what was synced, and of the rest exactly a prefix."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.block import Block
from chain.genesis import Consensus
from chain.pbft.effects import Durable
from nodes.ports import Stored, StoreFull
from testbed.simulate.disk import Disk, PowerLossError
from testbed.simulate.scenario import KeptWrites


def _fact(seq: int, data: bytes = b"x") -> Durable:
    return Durable("proposal", 0, seq, data)


def test_what_was_committed_survives_and_what_was_not_is_lost() -> None:
    disk = Disk(Random(1))
    disk.put_fact(_fact(1))
    disk.commit()
    disk.put_fact(_fact(1, b"newer"))
    disk.put_fact(_fact(2))
    assert disk.holds("proposal", 0, 1) is False  # the newer one is not durable yet
    disk.power_off(KeptWrites.LOST)
    assert list(disk.facts()) == [_fact(1)]
    assert disk.holds("proposal", 0, 1)
    assert not disk.holds("proposal", 0, 2)


def test_a_forgotten_fact_comes_back_if_forgetting_was_not_durable() -> None:
    disk = Disk(Random(1))
    disk.put_fact(_fact(1))
    disk.commit()
    disk.forget(1)
    assert not disk.facts()
    disk.power_off(KeptWrites.LOST)
    assert list(disk.facts()) == [_fact(1)]
    disk.forget(1)
    disk.commit()
    disk.power_off(KeptWrites.LOST)
    assert not disk.facts()
    assert disk.holds("proposal", 0, 1)  # a checkpoint stands in its place


@given(
    writes=st.lists(st.integers(1, 5), max_size=12),
    synced=st.integers(0, 12),
    dice=st.randoms(use_true_random=False),
)
def test_a_torn_disk_holds_a_prefix_that_contains_all_that_was_synced(
    writes: list[int], synced: int, dice: Random
) -> None:
    disk = Disk(dice)
    states = [list(disk.facts())]
    for count, seq in enumerate(writes, 1):
        disk.put_fact(_fact(seq, bytes([count])))
        states.append(list(disk.facts()))
        if count == synced:
            disk.commit()
    disk.power_off(KeptWrites.TORN)
    assert list(disk.facts()) in states[min(synced, len(writes)) if synced <= len(writes) else 0 :]


def _write_two_and_commit(disk: Disk) -> None:
    disk.put_fact(_fact(1))
    disk.put_fact(_fact(2))
    disk.commit()


@pytest.mark.parametrize(("at", "survives"), [(1, False), (2, False), (3, True)])
def test_power_fails_at_the_very_operation_that_was_named(at: int, survives: bool) -> None:
    """Two writes and a commit; a failing commit keeps what the scenario says."""
    disk = Disk(Random(1))
    disk.fail_at(at, KeptWrites.KEPT if survives else KeptWrites.LOST)
    with pytest.raises(PowerLossError) as loss:
        _write_two_and_commit(disk)
    disk.power_off(loss.value.keeps)
    assert bool(disk.facts()) is survives


def test_a_full_disk_takes_no_write_and_lets_go_when_there_is_space() -> None:
    disk = Disk(Random(1))
    disk.fill(1)
    disk.put_fact(_fact(1))
    with pytest.raises(StoreFull):
        disk.commit()
    disk.power_off(KeptWrites.LOST)
    disk.commit()  # nothing to write: as SQLite, which then does not touch the disk
    disk.drain()
    disk.put_fact(_fact(2))
    disk.commit()
    assert list(disk.facts()) == [_fact(2)]


def test_a_wiped_disk_is_empty_and_in_abstention_until_that_is_durably_over() -> None:
    disk = Disk(Random(1))
    disk.put_fact(_fact(1))
    disk.commit()
    assert disk.abstention(Consensus()) is None
    disk.wipe()
    assert not disk.facts()
    assert not disk.holds("proposal", 0, 1)
    disk.note_abstention(40)
    disk.power_off(KeptWrites.LOST)  # the note was not synced: still unknown until when
    abstention = disk.abstention(Consensus())
    assert abstention is not None
    assert abstention.until is None
    disk.note_abstention(None)
    disk.commit()
    disk.power_off(KeptWrites.LOST)
    assert disk.abstention(Consensus()) is None


@pytest.mark.parametrize(
    ("keeps", "seen"), [(KeptWrites.LOST, [1]), (KeptWrites.KEPT, [1, 2])], ids=["lost", "kept"]
)
def test_a_block_counts_when_its_step_is_over_or_it_outlived_the_power_failure(
    keeps: KeptWrites, seen: list[int]
) -> None:
    """What a step wrote before it failed was never there: the votes that decided the block may
    have been lost with it (seed 9845 of 100,000 was taken for a fork)."""
    shown: list[int] = []
    disk = Disk(Random(1), lambda height, stored: shown.append(height))
    disk.put_block(1, Stored(Block(b"head", ()), b""))
    disk.commit()
    disk.show()
    disk.put_block(2, Stored(Block(b"head", ()), b""))
    assert shown == [1]
    disk.power_off(keeps)
    assert shown == seen
