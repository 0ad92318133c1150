"""The end of an abstention follows from what peers say; some of them lie."""

from __future__ import annotations

import itertools

import pytest

from chain.genesis import Consensus, Member, Membership
from chain.pbft.messages import StatusMessage
from nodes.replica.abstention import Abstention

CONSENSUS = Consensus()
MARGIN = CONSENSUS.log_window + CONSENSUS.checkpoint_interval


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
