"""The authentication group: everyone draws the same one, and its failure probability is exact."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import Misuse
from chain.genesis import Member, Membership, Policy
from chain.keys import digest
from chain.ledger.auth_group import accepted_by, denial, false_accept, members
from chain.quorum import Quorum


def membership(n: int, epoch: int = 0) -> Membership:
    return Membership(epoch, tuple(Member(each, digest(bytes([each]))) for each in range(n)))


@given(st.binary(min_size=32, max_size=32), st.integers(4, 40), st.integers(1, 40))
def test_a_group_is_distinct_members_and_depends_on_request_and_epoch_only(
    request: bytes, n: int, size: int
) -> None:
    group = members(request, membership(n), size)
    assert group == members(request, membership(n), size)
    assert len(set(group)) == len(group) == min(size, n)
    assert set(group) <= set(range(n))


def test_every_replica_is_drawn_about_equally_often() -> None:
    drawn = Counter(
        each
        for i in range(3000)
        for each in members(digest(i.to_bytes(4, "big")), membership(10), 3)
    )
    assert min(drawn.values()) > 800
    assert max(drawn.values()) < 1000


def test_groups_change_with_the_epoch() -> None:
    request = digest(b"request")
    groups = {members(request, membership(20, epoch), 5) for epoch in range(10)}
    assert len(groups) > 5


def test_k_of_the_right_members_are_needed() -> None:
    request, four = digest(b"request"), membership(4)
    group = members(request, four, 3)
    stranger = next(each for each in range(4) if each not in group)
    policy = Policy()
    assert accepted_by(request, group[:2], four, policy)
    assert not accepted_by(request, group[:1], four, policy)
    assert not accepted_by(request, (group[0], stranger), four, policy)
    assert not accepted_by(request, (group[0], group[0]), four, policy)
    assert accepted_by(request, group[:1], four, Policy(group_size=3, group_accepts=1))


@pytest.mark.parametrize("n", range(4, 14))
def test_the_default_group_is_safe_from_f_liars(n: int) -> None:
    """m = 2f+1 and k = f+1: f liars can neither admit nor deny, whoever is drawn."""
    f = Quorum.of(n).faulty
    m, k = Policy().group(Quorum.of(n))
    assert (m, k) == (2 * f + 1, f + 1)
    assert false_accept(n, f, m, k) == denial(n, f, m, k) == 0


@pytest.mark.parametrize("n", [5, 7, 9])
def test_the_probabilities_are_those_of_counting_all_draws(n: int) -> None:
    for f in range(n):
        for m in range(1, n + 1):
            faulty = [sum(each < f for each in draw) for draw in combinations(range(n), m)]
            for k in range(1, m + 1):
                accepts = Fraction(sum(x >= k for x in faulty), len(faulty))
                denials = Fraction(sum(x > m - k for x in faulty), len(faulty))
                assert false_accept(n, f, m, k) == accepts
                assert denial(n, f, m, k) == denials


def test_impossible_groups_are_a_mistake() -> None:
    with pytest.raises(Misuse):
        false_accept(4, 1, 5, 2)
    with pytest.raises(Misuse):
        denial(4, 5, 3, 2)
