"""Membership: an ordered operation, effective at the next stable checkpoint, in a new epoch."""

from __future__ import annotations

import pytest

from chain.block import Head
from chain.pbft.messages import Checkpoint, PrePrepare
from tests.chain.cluster import SMALL, Cluster


def blocks(cluster: Cluster, count: int) -> None:
    for _ in range(count):
        cluster.request(f"r{len(cluster.submitted)}", to=list(cluster.nodes))
        cluster.settle()


def epochs(cluster: Cluster) -> dict[int, int]:
    return {i: node.replica.epoch for i, node in cluster.nodes.items()}


def test_the_new_set_decides_from_the_block_after_the_checkpoint() -> None:
    cluster = Cluster()
    blocks(cluster, 2)
    cluster.request("+4")
    cluster.settle()
    cluster.join(4)
    blocks(cluster, 10)
    heads = [Head.decode(block.head) for block in cluster.nodes[0].ledger.blocks]
    assert [head.epoch for head in heads[1:12]] == [0] * 8 + [1] * 3
    cluster.settle(lambda: set(epochs(cluster).values()) == {1}, 5_000_000)
    assert cluster.nodes[4].replica.membership.ids == (0, 1, 2, 3, 4)


def test_a_replica_is_replaced() -> None:
    """The paper: a node brought down gets replaced. Add one, remove the dead one, go on."""
    cluster = Cluster()
    blocks(cluster, 2)
    cluster.crash(3)
    cluster.request("+4")
    cluster.settle()
    cluster.join(4)
    blocks(cluster, 8)
    cluster.request("-3")
    cluster.settle()
    blocks(cluster, 8)
    assert cluster.nodes[0].replica.membership.ids == (0, 1, 2, 4)
    cluster.crash(2)  # the new member's vote is needed now
    cluster.request("z", to=[0, 1, 4])
    cluster.settle()
    assert "z" in cluster.executed(4)


def test_a_replica_that_missed_epochs_catches_up_through_them() -> None:
    cluster = Cluster(5)
    cluster.isolate(2)
    blocks(cluster, 2)
    for change in ("+5", "+6", "-1"):
        cluster.request(change)
        cluster.settle()
        if change[0] == "+":
            cluster.join(int(change[1:]))
            cluster.isolate(2)
        blocks(cluster, 9)
    assert epochs(cluster)[0] == 3
    cluster.heal()
    cluster.settle(limit_us=20_000_000)
    assert epochs(cluster)[2] == 3


@pytest.mark.parametrize("removed", [0, 4])
def test_a_new_epoch_seals_heartbeats_and_notices_a_dead_primary(removed: int) -> None:
    """Timers start again with the epoch: also if nobody asks for anything."""
    cluster = Cluster(5)
    cluster.request(f"-{removed}")
    cluster.settle()
    cluster.run(30_000_000)
    left = [i for i in range(5) if i != removed]
    assert {epochs(cluster)[i] for i in left} == {1}
    assert min(cluster.nodes[i].ledger.height for i in left) > 10
    cluster.crash(left[0])
    height = cluster.nodes[left[1]].ledger.height
    cluster.run(10_000_000)
    assert cluster.nodes[left[1]].ledger.height > height


def test_a_removed_replica_follows_to_the_boundary_and_votes_no_more() -> None:
    cluster = Cluster(5)
    blocks(cluster, 2)
    cluster.request("-4")
    cluster.settle()
    blocks(cluster, 10)
    removed = cluster.nodes[4]
    assert removed.replica.membership.ids == (0, 1, 2, 3)
    before = removed.writes
    blocks(cluster, 4)
    cluster.run(1_000_000)
    assert [key for key in removed.store if key[0] == "proposal" and key[2] > 8] == []
    assert removed.writes >= before


def test_nobody_executes_above_the_boundary_before_it_is_stable() -> None:
    """Who would go on alone could leave the others without a quorum to finish the epoch."""
    cluster = Cluster()
    blocks(cluster, 2)
    cluster.lose = lambda source, to, message: isinstance(message, Checkpoint)
    cluster.request("+4")
    cluster.settle()
    cluster.request(*(f"x{number}" for number in range(100)))
    cluster.run(3_000_000)
    assert set(cluster.heights()) == {SMALL.checkpoint_interval}
    assert set(epochs(cluster).values()) == {0}
    cluster.heal()
    cluster.join(4)
    cluster.settle(limit_us=20_000_000)
    cluster.settle(lambda: set(epochs(cluster).values()) == {1}, 5_000_000)


def test_what_the_old_epoch_committed_above_the_boundary_is_void() -> None:
    """The pipeline runs on while the change is in flight; its requests come in the new epoch."""
    cluster = Cluster()
    blocks(cluster, 6)
    cluster.lose = lambda source, to, message: isinstance(message, Checkpoint)
    cluster.request("+4", *(f"x{number}" for number in range(40)))
    cluster.run(200_000)
    assert any("committed view 0 seq 9" in line for line in cluster.transcript)
    assert set(cluster.heights()) == {8}
    cluster.heal()
    cluster.settle(limit_us=20_000_000)
    heads = [Head.decode(block.head) for block in cluster.nodes[0].ledger.blocks]
    assert {head.epoch for head in heads[9:]} == {1}


def test_what_is_proposed_above_the_boundary_is_not_judged() -> None:
    """The primary's pipeline was too early to know of the change; a backup that has executed it
    reads the next epoch's state (seed 34089 of 100,000)."""
    cluster = Cluster()
    blocks(cluster, 6)
    cluster.lose = lambda source, to, message: (
        isinstance(message, Checkpoint) or (isinstance(message, PrePrepare) and message.seq > 8)
    )
    cluster.request("+4", *(f"x{number}@0" for number in range(40)))
    cluster.run(100_000)
    assert set(cluster.heights()) == {8}
    cluster.lose = lambda source, to, message: isinstance(message, Checkpoint)
    before = len(cluster.transcript)
    cluster.run(1_000_000)
    assert any("PRE-PREPARE v0 n9" in line for line in cluster.transcript[before:])
    assert not cluster.accusations


@pytest.mark.parametrize("crashed", range(5))
def test_restart_around_the_boundary(crashed: int) -> None:
    """Pending, at the boundary, or just beyond: the epoch follows from blocks and proofs."""
    for height in range(3, 12):
        cluster = Cluster(5)
        blocks(cluster, 2)
        cluster.request("-4" if crashed != 4 else "-3")
        cluster.settle()
        blocks(cluster, max(0, height - 3))
        cluster.crash(crashed)
        cluster.restart(crashed)
        blocks(cluster, 10)
        cluster.run(1_000_000)
        assert set(epochs(cluster).values()) == {1}
        assert not cluster.accusations
