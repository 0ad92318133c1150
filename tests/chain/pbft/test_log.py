"""The log: which votes make which facts, for every size of membership (OSDI'99, section 4.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.pbft.log import Accepted, Fact, Log, Slot
from chain.pbft.messages import Commit, Prepare, Signed
from chain.pbft.votes import Equivocation, Votes
from chain.quorum import Quorum

A, B = b"a" * 32, b"b" * 32


def signed(*what: object) -> Signed:
    return Signed(repr(what).encode(), b"s" * 64)


def prepare(sender: int, view: int = 0, digest: bytes = A, seq: int = 1) -> tuple[Prepare, Signed]:
    return Prepare(0, sender, view, seq, digest), signed("P", sender, view, digest)


def commit(sender: int, view: int = 0, digest: bytes = A, seq: int = 1) -> tuple[Commit, Signed]:
    return Commit(0, sender, view, seq, digest), signed("C", sender, view, digest)


def accepted(log: Log, view: int = 0, digest: bytes = A, seq: int = 1) -> Slot:
    slot = log.slot(seq)
    slot.accepted = Accepted(view, digest, signed("PP", view, digest))
    return slot


@pytest.mark.parametrize(
    ("n", "f", "q"), [(4, 1, 3), (5, 1, 4), (6, 1, 4), (7, 2, 5), (10, 3, 7), (13, 4, 9)]
)
def test_two_quorums_share_an_honest_replica(n: int, f: int, q: int) -> None:
    """q = ceil((n+f+1)/2): 2f+1 would be unsafe at n = 5 and 6."""
    quorum = Quorum.of(n)
    assert (quorum.faulty, quorum.strong, quorum.weak) == (f, q, f + 1)
    assert 2 * q - n >= f + 1
    assert n - f >= q


@pytest.mark.parametrize("n", [4, 5, 6, 7, 10, 13])
def test_prepared_takes_the_pre_prepare_and_q_minus_1_backups(n: int) -> None:
    strong = Quorum.of(n).strong
    log = Log(strong, 16)
    slot = accepted(log)
    facts = [log.add_prepare(*prepare(sender)) for sender in range(1, n)]
    assert facts.index(Fact.PREPARED) == strong - 2
    assert facts.count(Fact.PREPARED) == 1
    assert slot.prepared_proof is not None
    assert len(slot.prepared_proof.prepares) == strong - 1


@pytest.mark.parametrize("n", [4, 5, 6, 7, 10, 13])
def test_committed_takes_q_commits(n: int) -> None:
    strong = Quorum.of(n).strong
    log = Log(strong, 16)
    facts = [log.add_commit(*commit(sender)) for sender in range(n)]
    assert facts.index(Fact.COMMITTED) == strong - 1
    assert facts.count(Fact.COMMITTED) == 1


Vote = tuple[int, int, bytes]
TABLE: list[tuple[str, list[Vote], int, bytes, bool]] = [
    # what, votes (sender, view, digest), accepted in view, with digest, prepared
    ("two backups agree", [(1, 0, A), (2, 0, A)], 0, A, True),
    ("one is not enough", [(1, 0, A)], 0, A, False),
    ("one twice is one", [(1, 0, A), (1, 0, A)], 0, A, False),
    ("another digest", [(1, 0, B), (2, 0, A)], 0, A, False),
    ("both for what we did not accept", [(1, 0, B), (2, 0, B)], 0, A, False),
    ("another view", [(1, 1, A), (2, 0, A)], 0, A, False),
    ("both of a later view", [(1, 1, A), (2, 1, A)], 0, A, False),
    ("a later vote replaces", [(1, 0, A), (2, 0, A), (2, 1, A)], 1, A, False),
    ("an old one does not", [(1, 1, A), (2, 1, A), (2, 0, A)], 1, A, True),
    ("an equivocator counts once", [(1, 0, B), (1, 0, A), (2, 0, A)], 0, A, False),
]


@pytest.mark.parametrize(("what", "votes", "view", "digest", "expected"), TABLE)
def test_prepared_table(
    what: str, votes: list[Vote], view: int, digest: bytes, expected: bool
) -> None:
    """Votes may come before their PRE-PREPARE: asked again after accepting, the same."""
    log = Log(Quorum.of(4).strong, 16)
    for vote in votes:
        log.add_prepare(*prepare(*vote))
    slot = accepted(log, view, digest)
    assert (log.prepared_now(slot) is Fact.PREPARED) is expected, what


def test_a_fact_of_equivocation_carries_both_votes() -> None:
    log = Log(3, 16)
    assert log.add_commit(*commit(2, digest=A)) is None
    fact = log.add_commit(*commit(2, digest=B))
    assert fact == Equivocation(2, "commit", commit(2, digest=A)[1], commit(2, digest=B)[1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from([A, B]))))
def test_counts_always_are_what_the_votes_say(votes: list[Vote]) -> None:
    """Each sender holds one place; the counts are those of the votes held, nothing more."""
    votes_held = Votes("prepare")
    for sender, view, digest in votes:
        votes_held.add(sender, view, digest, signed(sender, view, digest))
    held = [(view, digest) for view, digest, _ in votes_held.votes.values()]
    assert votes_held.counts == {key: held.count(key) for key in held}
    assert len(held) <= 4


def test_the_window_moves_and_old_slots_go() -> None:
    """h < n <= h + L (4.2), down to the previous stable checkpoint for those behind."""
    log = Log(3, 16)
    assert [seq for seq in range(40) if log.admits(seq)] == list(range(1, 17))
    for seq in range(1, 17):
        log.slot(seq)
    log.raise_low(8, 0)
    log.raise_low(16, 8)
    assert [seq for seq in range(60) if log.admits(seq)] == list(range(9, 33))
    assert sorted(log.slots) == list(range(9, 17))


def test_a_commit_certificate_stands_whatever_comes_later() -> None:
    log = Log(3, 16)
    for sender in (0, 1, 2):
        log.add_commit(*commit(sender))
    for sender in (0, 1, 2):
        log.add_commit(*commit(sender, view=1))
    assert log.slot(1).committed == (0, A)
