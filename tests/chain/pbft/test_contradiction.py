"""More than f forget what they prepared: who has the block does not follow them."""

from __future__ import annotations

from chain.pbft.messages import NewView, PrePrepare, ViewChange
from tests.chain.cluster import Cluster
from tests.chain.fakes import sign, signer_of


def _forgetful(cluster: Cluster, view: int, pre_prepares: tuple[PrePrepare, ...] = ()) -> NewView:
    """V of two replicas that deny their certificates, and of one that never had them."""
    primary = view % 4
    votes = tuple(
        sign(signer_of(i), ViewChange(0, i, view, 0, bytes(32), (), ())) for i in (1, 2, 3)
    )
    ordered = tuple(sign(signer_of(primary), entry) for entry in pre_prepares)
    return NewView(0, primary, view, votes, ordered)


def _one_block_that_three_have() -> Cluster:
    cluster = Cluster(byzantine=(1, 2, 3))
    cluster.isolate(3)
    cluster.request("a")
    cluster.settle(lambda: cluster.heights() == [1, 1, 1, 0])
    cluster.isolate(0)
    cluster.transcript.clear()
    return cluster


def test_a_new_view_that_leaves_out_an_executed_block_is_refused() -> None:
    cluster = _one_block_that_three_have()
    cluster.cut = set()
    cluster.post(1, 0, sign(signer_of(1), _forgetful(cluster, 1)))
    cluster.isolate(0)
    cluster.run(500_000)
    replica = cluster.nodes[0].replica
    assert replica.view == 0, "it stays where it was"
    assert any("contradicted" in line for line in cluster.transcript)
    assert not cluster.accusations, "its primary may be honest"


def test_a_commit_of_that_very_view_is_no_contradiction() -> None:
    """Its COMMITs may overtake the NEW-VIEW."""
    cluster = Cluster(7)
    cluster.crash(0)
    cluster.lose = lambda source, to, message: to == 6 and isinstance(message, NewView)
    cluster.request("a", to=range(1, 7))
    late = cluster.nodes[6]
    cluster.settle(lambda: late.ledger.height == 1)
    assert not late.replica.active
    cluster.heal()
    cluster.settle(lambda: late.replica.active)
    assert late.replica.view == 1
    assert not any("contradicted" in line for line in cluster.transcript)
