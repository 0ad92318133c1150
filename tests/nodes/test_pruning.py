"""Replicas that pruned bring up one that lost everything; what is left proves itself."""

from __future__ import annotations

from pathlib import Path

from testbed.checks.ledger import verify_ledgers
from testbed.checks.properties import validity
from testbed.proofs import open_ledgers
from tests.nodes.cluster import FAST, Cluster, until
from tests.nodes.test_replica_process import play, votes_again

KEEP_BLOCKS = 4


def pruned(cluster: Cluster, replica: int) -> int:
    """The newest height at which an item of data is gone."""
    with cluster.ledger(replica) as ledger:
        gone = [at for at, stored in enumerate(ledger.blocks(), 1) if stored.block.pruned]
    return max(gone, default=0)


def test_replicas_that_pruned_bring_up_one_that_was_wiped(tmp_path: Path) -> None:
    """By the key beside its store it knows that it voted, and does not vote again until its chain
    is past all that it may have voted on."""

    async def story(cluster: Cluster) -> None:
        await cluster.admit()
        await cluster.data(times=4 * FAST.checkpoint_interval)
        early = cluster.client.height - 3 * FAST.checkpoint_interval
        await until(lambda: all(pruned(cluster, n) >= early for n in range(4)), "all prune")
        cluster.network.terminate(3)
        path = cluster.network.ledger(3)
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        cluster.network.start(3)
        assert "is gone, and this key has voted" in cluster.network.stderr(3)
        await until(lambda: cluster.events(3, "store-missing"), "the log says so")
        await cluster.caught_up(3)
        assert pruned(cluster, 3) >= early
        await votes_again(cluster)
        cluster.network.terminate(0)  # and starts from what it pruned itself
        cluster.network.start(0)
        await cluster.data(times=2)
        await cluster.level()
        assert cluster.same_chain()
        for replica in range(4):
            assert cluster.network.terminate(replica) == 0
        judged(cluster)

    play(Cluster(tmp_path, keep_data_blocks=KEEP_BLOCKS), story)


def judged(cluster: Cluster) -> None:
    """The files are true as far as they go, and the verdict says how far that is."""
    paths = [cluster.network.ledger(n) for n in range(4)]
    report = verify_ledgers(paths, cluster.network.genesis)
    assert report.holds, report.findings
    assert report.pruned > 0
    judged = validity(report)
    assert judged.held is None
    assert "pruned up to height" in judged.detail
    with open_ledgers(paths, cluster.network.genesis) as ledgers:
        node = cluster.devices[0].node
        assert ledgers.prove(node).statement.node == node
