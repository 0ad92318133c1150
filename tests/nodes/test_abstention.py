"""The end of an abstention follows from what peers say; some of them lie."""

from __future__ import annotations

import itertools

import pytest

from chain.genesis import Consensus, Member, Membership
from chain.pbft.messages import Checkpoint, StatusMessage
from nodes.replica.abstention import Abstention
from tests.chain.cluster import SMALL, Cluster

CONSENSUS = Consensus()
MARGIN = CONSENSUS.log_window


def membership(n: int) -> Membership:
    return Membership(0, tuple(Member(i, bytes([i]) * 32) for i in range(n)))


def status(sender: int, executed: int) -> StatusMessage:
    return StatusMessage(0, sender, 0, True, 0, executed)


@pytest.mark.parametrize("n", [7, 10])
def test_a_peer_that_claims_to_be_far_ahead_does_not_make_it_endless(n: int) -> None:
    """We are one of the f faulty; the liars are the others, and answer first."""
    abstention, members = Abstention(CONSENSUS, None), membership(n)
    faulty = members.quorum.faulty
    for liar in range(1, faulty):
        abstention.heard(status(liar, 2**62), members)
    for honest in range(faulty, n):
        abstention.heard(status(honest, 100), members)
    assert abstention.over(100 + MARGIN)


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 9, 10])
def test_it_never_ends_below_what_we_can_have_voted_on(n: int) -> None:
    """Of those that executed the last checkpoint that we can have known, as few are honest as can
    be, and they are the last or the first to be heard; liars claim nothing."""
    quorum = membership(n).quorum
    for liars, known in itertools.product(range(quorum.faulty), (True, False)):
        honest = n - 1 - liars
        ahead = quorum.strong - quorum.faulty
        claims = [0] * liars + [100] * ahead + [0] * (honest - ahead)
        claims = claims if known else claims[::-1]
        abstention = Abstention(CONSENSUS, None)
        for sender, executed in enumerate(claims, 1):
            abstention.heard(status(sender, executed), membership(n))
            assert abstention.until is None or abstention.until >= 100 + MARGIN
        assert abstention.over(100 + MARGIN)


def test_it_ends_by_what_is_stable_not_by_height() -> None:
    """Blocks are executed, but no checkpoint is proven: its window is where it was, so it could
    still vote on numbers that it has voted on before."""
    cluster = Cluster()
    for number in range(8):
        cluster.request(f"r{number}")
        cluster.settle()
    cluster.run(300_000)
    abstention, replica = Abstention(SMALL, None), cluster.nodes[3].replica
    for sender in (0, 1, 2):
        peer = cluster.nodes[sender].replica
        abstention.heard(
            StatusMessage(0, sender, 0, True, peer.stable, peer.executed), cluster.genesis
        )
    voted_max = replica.stable + SMALL.log_window
    assert abstention.until is not None
    assert abstention.until >= voted_max
    cluster.lose = lambda source, to, message: isinstance(message, Checkpoint)
    for number in range(SMALL.log_window):
        cluster.request(f"more{number}")
        cluster.settle()
    assert replica.executed >= abstention.until
    assert not abstention.over(replica.stable)
    cluster.heal()
    cluster.settle(lambda: replica.stable >= voted_max)
    assert abstention.over(replica.stable)
