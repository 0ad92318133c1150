"""Restart: a replica that comes back never contradicts what it signed, and is of use at once.

Restart equivocates, or refuses its own replayed vote (Malachite, Tendermint): crash at every
persist boundary. The cluster fails on any two contradicting votes of one honest replica.
"""

from __future__ import annotations

import msgspec
import pytest

from chain.errors import Misuse
from chain.pbft.messages import (
    Commit,
    Heads,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    decode_body,
)
from chain.pbft.state import ViewFact
from tests.chain.cluster import LINK_US, Cluster
from tests.chain.fakes import sign, signer_of

SOAK = pytest.mark.soak


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


def writes_of(replica: int) -> range:
    """The numbers of its writes and syncs in the scenario."""
    cluster = Cluster()
    started = cluster.nodes[replica].writes
    scenario(cluster)
    return range(started + 1, cluster.nodes[replica].writes + 1)


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=SOAK) for n in range(1, 8))])
@pytest.mark.parametrize("keeps_unsynced", [False, True])
@pytest.mark.parametrize("replica", range(4))
def test_crash_at_every_persist_boundary(replica: int, keeps_unsynced: bool, part: int) -> None:
    """Power fails right after the k-th write or sync, for every k; all sends before it have left.
    What was not synced is lost or kept. `make test` takes every eighth k: others in each of its
    cases, so that together they have every k. `make soak` takes all of them in each."""
    boundaries = writes_of(replica)
    assert len(boundaries) > 60
    for boundary in boundaries[(part + replica + 4 * keeps_unsynced) % 8 :: 8]:
        cluster = Cluster()
        cluster.nodes[replica].crash_at = boundary
        cluster.nodes[replica].keeps_unsynced = keeps_unsynced
        scenario(cluster)
        assert not cluster.nodes[replica].alive
        cluster.restart(replica)
        cluster.request("z", to=range(4))
        cluster.settle(limit_us=20_000_000)
        assert not cluster.accusations, f"after persist {boundary}"


@pytest.mark.parametrize(
    ("boundary", "keeps_unsynced"),
    [
        pytest.param(boundary, keeps, marks=SOAK if boundary % 2 == keeps else [])
        for boundary in range(3, 72, 3)
        for keeps in (False, True)
    ],
)
def test_all_crash_at_once_and_nothing_is_lost(boundary: int, keeps_unsynced: bool) -> None:
    """What f+1 replied survives a crash of all: the COMMITs that decided it were durable."""
    cluster = Cluster()
    for node in cluster.nodes.values():
        node.crash_at = boundary
        node.keeps_unsynced = keeps_unsynced
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


def test_a_primary_that_restarts_proposes_no_more_in_its_view() -> None:
    """It may have proposed there what it forgot. It asks for the next view, and the others follow
    at once: nobody waits for a timeout."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: source == 0 and to != 3
    cluster.request("a", to=0)
    cluster.run(10_000)
    cluster.crash(0)
    cluster.heal()
    cluster.restart(0)
    cluster.run(5 * LINK_US)
    assert cluster.views() == [1, 1, 1, 1]
    assert all(node.replica.active for node in cluster.nodes.values())
    cluster.request("b", to=0)
    cluster.settle(limit_us=100_000)


def test_a_backup_that_restarts_follows_without_a_vote_until_the_next_view() -> None:
    """It may have voted in this view and forgotten it. One backup alone holds nobody up; as soon
    as f+1 ask for the next view, all of them are in it."""
    cluster = Cluster()
    cluster.request("a", to=range(4))
    cluster.settle()
    cluster.crash(3)
    cluster.restart(3)
    before = len(cluster.transcript)
    cluster.request("b", to=3)  # which hands it to the primary all the same
    cluster.settle(lambda: all("b" in cluster.executed(i) for i in range(4)), 1_000_000)
    assert cluster.views() == [0, 0, 0, 1]
    votes = ("PREPARE v", "COMMIT v")
    assert not [
        line
        for line in cluster.transcript[before:]
        if "3 -> " in line and any(vote in line and "of 3" in line for vote in votes)
    ]
    cluster.crash(2)
    cluster.restart(2)
    cluster.run(10 * LINK_US)
    assert cluster.views() == [1, 1, 1, 1]
    assert all(node.replica.active for node in cluster.nodes.values())


def test_votes_that_a_power_cut_took_from_everybody_are_contradicted_by_nobody() -> None:
    """All PREPAREs of "a" left, none was durable. The next view proposes something else."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Prepare)
    cluster.request("a", to=0)
    cluster.run(5_000)
    cluster.crash(*range(4))
    assert not any(key[0] == "proposal" for node in cluster.nodes.values() for key in node.store)
    cluster.heal()
    cluster.restart(*range(4))
    cluster.request("b", to=range(4))
    cluster.settle(lambda: all("b" in cluster.executed(i) for i in range(4)), 10_000_000)
    assert min(cluster.views()) == 1


@pytest.mark.parametrize("first", [False, True])
def test_a_certificate_whose_batch_a_power_cut_took_from_everybody_stalls_no_view(
    first: bool,
) -> None:
    """A traitor alone sees that "a" is prepared, and keeps the certificate and not the batch. Its
    VIEW-CHANGE names it in every view, and may be the first to arrive."""
    cluster = Cluster(byzantine=[0])
    cluster.lose = lambda source, to, message: isinstance(message, Prepare) and to != 0
    cluster.request("a", to=0)
    cluster.run(5_000)
    slot = cluster.nodes[0].replica.log.get(1)
    assert slot is not None
    proof = slot.prepared_proof
    assert proof is not None
    cluster.crash(*range(4))

    def beside(source: int, to: int, signed: Signed) -> Signed:
        message = decode_body(signed.body)
        if source and isinstance(message, ViewChange) and (first or message.view % 2):
            lie = ViewChange(0, 0, message.view, 0, bytes(32), (), (proof,))
            cluster.post(0, to, sign(signer_of(0), lie))
        return signed

    cluster.lose = lambda source, to, message: to == 0
    cluster.on_post = beside
    cluster.restart(1, 2, 3)
    cluster.request("b", to=(1, 2, 3))
    cluster.settle(lambda: all("b" in cluster.executed(i) for i in (1, 2, 3)), 10_000_000)
    assert not cluster.accusations


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
