"""Restart: a replica that comes back never contradicts what it signed, and is of use at once.

Restart equivocates, or refuses its own replayed vote (Malachite, Tendermint): crash at every
persist boundary. The cluster fails on any two contradicting votes of one honest replica.
"""

from __future__ import annotations

import msgspec
import pytest

from chain.errors import Misuse
from chain.pbft.messages import Commit, Heads, PrePrepare, ViewChange, decode_body
from chain.pbft.state import ViewFact
from tests.chain.cluster import Cluster


def scenario(cluster: Cluster) -> None:
    """Batches, a checkpoint, a view change, a checkpoint in the new view."""
    for number in range(9):
        cluster.request(f"a{number}", to=range(4))
        cluster.run(4_000)
    cluster.lose = lambda source, to, message: source == 0 and to != 3
    cluster.request("b", to=range(4))
    cluster.run(3_000_000)
    cluster.lose = lambda source, to, message: False
    for number in range(9):
        cluster.request(f"c{number}", to=range(4))
        cluster.run(4_000)


def persists_of(replica: int) -> int:
    cluster = Cluster()
    scenario(cluster)
    return cluster.nodes[replica].persists


@pytest.mark.parametrize("replica", range(4))
def test_crash_at_every_persist_boundary(replica: int) -> None:
    """Power fails right after the k-th durable fact, for every k; blocks not synced are lost."""
    count = persists_of(replica)
    assert count > 40
    for boundary in range(1, count + 1):
        cluster = Cluster()
        cluster.nodes[replica].crash_at = boundary
        scenario(cluster)
        assert not cluster.nodes[replica].alive
        cluster.restart(replica)
        cluster.request("z", to=range(4))
        cluster.settle(limit_us=20_000_000)
        assert not cluster.accusations, f"after persist {boundary}"


@pytest.mark.parametrize("boundary", range(1, 60, 3))
def test_all_crash_at_once_and_nothing_is_lost(boundary: int) -> None:
    """What f+1 replied survives a crash of all: the votes that decided it are durable."""
    cluster = Cluster()
    for node in cluster.nodes.values():
        node.crash_at = boundary
    scenario(cluster)
    final = {
        name
        for name in cluster.executed(0)
        if sum(name in cluster.executed(i) for i in range(4)) >= 2
    }
    cluster.crash(*range(4))
    cluster.restart(*range(4))
    cluster.request("z", to=range(4))
    cluster.settle(lambda: all("z" in cluster.executed(i) for i in range(4)), 30_000_000)
    assert final <= set(cluster.executed(1))


def test_a_primary_that_restarts_goes_on_with_its_proposals() -> None:
    """Its PRE-PREPAREs are durable before they leave: none is made twice or differently."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: source == 0
    cluster.request("a")
    cluster.run(10_000)
    cluster.crash(0)
    cluster.heal()
    cluster.restart(0)
    cluster.settle(limit_us=5_000_000)
    assert cluster.views() == [0, 0, 0, 0]


def test_a_restart_while_waiting_for_a_view_sends_the_same_view_change() -> None:
    cluster = Cluster()
    cluster.partition([0], [1], [2], [3])
    cluster.request("a", to=range(4))
    cluster.run(5_000_000)
    assert not cluster.nodes[2].replica.active
    cluster.crash(2)
    cluster.restart(2)
    assert (cluster.nodes[2].replica.view, cluster.nodes[2].replica.active) == (1, False)
    cluster.heal()
    cluster.settle(limit_us=10_000_000)


@pytest.mark.parametrize("late", [1, 2])
def test_a_laggard_that_restarts_keeps_what_it_prepared_beyond_its_blocks(late: int) -> None:
    """NEW-VIEW may stand on a checkpoint far above what a laggard has executed. What it voted on
    up there, as primary (r1) or backup, it still knows after a restart: its next VIEW-CHANGE names
    every certificate. Found by the simulator."""
    cluster = Cluster()
    others = [i for i in range(4) if i != late]
    cluster.isolate(late)
    for number in range(20):
        cluster.request(f"a{number}", to=others)
        cluster.run(20_000)
    cluster.lose = lambda source, to, message: isinstance(message, Commit) or late in (source, to)
    cluster.request("b", to=others)
    cluster.run(20_000)
    cluster.heal()
    cluster.lose = lambda source, to, message: isinstance(message, Heads | Commit)
    cluster.crash(0)
    cluster.request("c", to=others)
    laggard = cluster.nodes[late]
    cluster.settle(lambda: ("prepared", 1, 21) in laggard.store, 5_000_000)
    assert laggard.replica.executed == 0
    cluster.crash(late)
    cluster.restart(late)
    cluster.settle(lambda: laggard.replica.view == 2, 10_000_000)
    fact = msgspec.msgpack.decode(laggard.store["view", 0, 0].data, type=ViewFact)
    assert fact.message is not None
    message = decode_body(fact.message.body)
    assert isinstance(message, ViewChange)
    named = [decode_body(proof.pre_prepare.body) for proof in message.prepared]
    assert [entry.seq for entry in named if isinstance(entry, PrePrepare)] == [17, 18, 19, 20, 21]
    cluster.heal()
    cluster.settle(limit_us=30_000_000)
    assert not cluster.accusations
    assert cluster.executed(late)[20] == "b"


def test_misuse_raises() -> None:
    """Our own bugs do not look like faults of peers."""
    cluster = Cluster()
    replica = cluster.nodes[0].replica
    with pytest.raises(Misuse, match="started twice"):
        replica.start(0)
