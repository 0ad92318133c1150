"""What one peer can make us hold or do."""

from __future__ import annotations

from chain.pbft.inputs import Submitted
from chain.pbft.messages import Forward, PrePrepare, Proposal, encode
from chain.pbft.pool import LATER_MAX
from tests.chain.cluster import SMALL, Cluster
from tests.chain.fakes import item, open_item, sign, signer_of, verified


def test_proposals_that_are_too_large_are_not_kept() -> None:
    """A primary sends all but the next, each as large as a frame may be."""
    cluster = Cluster(byzantine=[0])
    cluster.isolate(0)
    node = cluster.nodes[1]
    items = (item("a" * 1000),) * 4000
    for seq in range(2, 10):
        raw = Proposal(seq, cluster.now_us + seq, 0, items).encode()
        message = PrePrepare(0, 0, 0, seq, Proposal.digest_of(raw))
        frame = encode(sign(signer_of(0), message, raw))
        node.give(verified(node.verifier, frame, 0))
    offers = [slot.offer for slot in node.replica.log.above(0) if slot.offer is not None]
    held = sum(len(offer.signed.attachment) for offer in offers)
    assert held <= 2 * SMALL.batch_bytes_max
    assert cluster.accused() == {(0, "bad-proposal")}


def test_one_peer_does_not_fill_the_room_for_requests_that_are_early() -> None:
    """Strangers' requests cost nothing: nobody needs to be known to be early."""
    cluster = Cluster(byzantine=[3])
    primary = cluster.nodes[0]
    for number in range(2 * LATER_MAX):
        forward = Forward(0, 3, item(f"stranger{number}>never"))
        frame = encode(sign(signer_of(3), forward))
        primary.give(verified(primary.verifier, frame, 3))
    for source, name in ((1, "early>a"), (2, "soon>a")):
        frame = encode(sign(signer_of(source), Forward(0, source, item(name))))
        primary.give(verified(primary.verifier, frame, source))
    primary.give(Submitted(open_item(item("own>a"))))
    assert not cluster.refusals
    cluster.request("a", to=0)
    cluster.run(50_000)
    assert {"a", "early>a", "soon>a", "own>a"} == set(cluster.executed(1))
