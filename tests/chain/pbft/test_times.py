"""Block times rise by a step at least, whatever the times of the proposals behind them."""

from __future__ import annotations

import msgspec

from chain.pbft.messages import Commit, Prepare, ReplicaMessage, ViewChange
from tests.chain.cluster import SMALL, Cluster


def test_a_primary_knows_how_late_the_blocks_before_its_proposal_will_be() -> None:
    """A certificate of view 0 follows one of view 1: its block is later than its proposal says, by
    the least step. The primary of view 2, its clock behind but within bounds, has not executed it
    when it proposes the next; those who have must not take that for a time that stands still."""
    cluster = Cluster(consensus=msgspec.structs.replace(SMALL, view_timeout_us=300_000))
    cluster.nodes[1].clock_skew_us, cluster.nodes[2].clock_skew_us = 450_000, -450_000

    def view_0_prepares_2(source: int, to: int, message: ReplicaMessage) -> bool:
        if isinstance(message, ViewChange):  # so that view 1 begins without 3's certificate
            return (source, message.view) in ((3, 1), (1, 2))  # and view 2 with it
        if isinstance(message, Prepare) and message.view == 0:
            return message.seq == 1 or to != 3
        return isinstance(message, Commit) and message.view < 2

    cluster.lose = view_0_prepares_2
    cluster.request("a", "b", "c", to=0)
    cluster.settle(lambda: min(cluster.views()) == 2, 5_000_000)
    cluster.lose = lambda source, to, message: (
        isinstance(message, Commit) and (message.view < 2 or to == 2)
    )
    cluster.settle(lambda: cluster.heights() == [2, 2, 0, 2], 5_000_000)
    assert any("NEW-VIEW v2" in line and "n2 [b c]" in line for line in cluster.transcript)
    cluster.request("d", "e", "f", "g", to=2)
    cluster.run(50_000)
    assert any("PRE-PREPARE v2 n3" in line for line in cluster.transcript)
    assert not cluster.accusations
    cluster.heal()
    cluster.settle(limit_us=5_000_000)
    assert not cluster.accusations
