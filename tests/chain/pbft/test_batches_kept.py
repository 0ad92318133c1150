"""What a certificate names can be had again, whoever of its voters saw that it was prepared."""

from __future__ import annotations

import pytest

from chain.pbft.messages import (
    Prepare,
    PreparedProof,
    PrePrepare,
    ReplicaMessage,
    Signed,
    ViewChange,
    decode_body,
)
from tests.chain.cluster import Cluster
from tests.chain.fakes import sign, signer_of

HONEST = (1, 2, 3)


@pytest.mark.parametrize("restarted", [(), (1,), HONEST])
def test_what_honest_backups_voted_for_outlives_a_view_that_did_not_order_it(
    restarted: tuple[int, ...],
) -> None:
    """Only a treacherous primary sees the PREPAREs of "a", and leaves. The next view hears of no
    certificate and orders nothing; in every view after it the traitor is the first with its
    VIEW-CHANGE, and "a" is ordered. Those that voted for it have it on their disks."""
    cluster = Cluster(byzantine=[0])
    cluster.delay = lambda source, to: 100 if source == 0 else 1000
    cluster.lose = lambda source, to, message: isinstance(message, Prepare) and to != 0
    cluster.request("a", to=0)
    cluster.run(5_000)
    slot = cluster.nodes[0].replica.log.get(1)
    assert slot is not None
    proof = slot.prepared_proof
    assert proof is not None
    cluster.crash(0)

    def asynchronous(source: int, to: int, message: ReplicaMessage) -> bool:
        return isinstance(message, PrePrepare | Prepare) and message.view < 2

    def be_first(source: int, to: int, signed: Signed) -> Signed:
        message = decode_body(signed.body)
        if source in HONEST and isinstance(message, ViewChange) and message.view > 1:
            cluster.post(0, to, _view_change(message.view, proof))
        return signed

    cluster.lose, cluster.on_post = asynchronous, be_first
    cluster.request("b", to=HONEST)
    cluster.settle(lambda: min(cluster.views()) == 2, 30_000_000)
    cluster.crash(*restarted)
    cluster.restart(*restarted)
    cluster.request("b", to=HONEST)
    cluster.settle(lambda: all("b" in cluster.executed(i) for i in HONEST), 200_000_000)
    assert all("a" in cluster.executed(i) for i in HONEST)
    assert not cluster.accusations


def _view_change(view: int, proof: PreparedProof) -> Signed:
    return sign(signer_of(0), ViewChange(0, 0, view, 0, bytes(32), (), (proof,)))
