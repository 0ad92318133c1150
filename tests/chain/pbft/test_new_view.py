"""What VIEW-CHANGEs decide (OSDI'99, section 4.4), as a table and as a property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.pbft.inputs import Received
from chain.pbft.messages import NewView, PrePrepare, Signed, ViewChange
from chain.pbft.new_view import check_window, decide, matches, null_digest

A, B, C = (letter * 32 for letter in (b"a", b"b", b"c"))
NOTHING = Signed(b"", b"s" * 64)

Proofs = dict[int, tuple[int, bytes]]  # seq -> view, digest


def view_change(sender: int, stable: int, proofs: Proofs) -> Received[ViewChange]:
    message = ViewChange(0, sender, 5, stable, b"h" * 32, (), ())
    entries = tuple(
        PrePrepare(0, view, view, seq, digest) for seq, (view, digest) in proofs.items()
    )
    return Received(message, NOTHING, prepared=entries)


TABLE: list[tuple[str, list[tuple[int, Proofs]], int, list[bytes | None]]] = [
    # what, (h, P) of each VIEW-CHANGE, decided h, decided digests (None: null request)
    ("nothing prepared", [(0, {}), (0, {}), (0, {})], 0, []),
    ("one certificate is enough", [(0, {1: (0, A)}), (0, {}), (0, {})], 0, [A]),
    ("a gap becomes null", [(0, {3: (0, A)}), (0, {}), (0, {})], 0, [None, None, A]),
    ("the highest view wins", [(0, {1: (0, A)}), (0, {1: (2, B)}), (0, {1: (1, C)})], 0, [B]),
    ("the highest checkpoint wins", [(8, {}), (0, {1: (0, A)}), (0, {})], 8, []),
    ("above it certificates count", [(8, {}), (0, {9: (0, A)}), (0, {})], 8, [A]),
    ("apart", [(0, {1: (0, A)}), (0, {2: (1, B)}), (0, {})], 0, [A, B]),
]


@pytest.mark.parametrize(("what", "changes", "stable", "digests"), TABLE)
def test_decision(
    what: str, changes: list[tuple[int, Proofs]], stable: int, digests: list[bytes | None]
) -> None:
    received = [view_change(i, h, proofs) for i, (h, proofs) in enumerate(changes)]
    decision = decide(received)
    expected = [
        null_digest(seq) if digest is None else digest
        for seq, digest in enumerate(digests, start=stable + 1)
    ]
    assert decision.checkpoint.seq == stable, what
    assert list(decision.ordered) == expected, what


proofs = st.dictionaries(
    st.integers(1, 12), st.tuples(st.integers(0, 4), st.sampled_from([A, B, C])), max_size=8
)
changes = st.lists(st.tuples(st.sampled_from([0, 4, 8]), proofs), min_size=3, max_size=7)


@given(changes)
def test_the_decision_does_not_depend_on_the_order(drawn: list[tuple[int, Proofs]]) -> None:
    """Primary and backups compute the same O from the same V, however it is ordered."""
    received = [view_change(i, h, proofs) for i, (h, proofs) in enumerate(drawn)]
    decision = decide(received)
    assert decide(received[::-1]).ordered == decision.ordered
    top = max(h for h, _ in drawn)
    assert decision.checkpoint.seq == top
    for seq, digest in enumerate(decision.ordered, start=top + 1):
        given_here = [p[seq] for _, p in drawn if seq in p]
        if given_here:
            assert (max(given_here)[0], digest) in given_here
        else:
            assert digest == null_digest(seq)


@given(changes, st.integers(0, 20), st.sampled_from(["omit", "add", "change", "view", "seq"]))
def test_any_other_o_is_refused(drawn: list[tuple[int, Proofs]], where: int, how: str) -> None:
    """Omissions as well as additions, other digests, other views, other numbers."""
    received = [view_change(i, h, proofs) for i, (h, proofs) in enumerate(drawn)]
    decision = decide(received)
    first = decision.checkpoint.seq + 1
    right = [PrePrepare(0, 1, 5, seq, digest) for seq, digest in enumerate(decision.ordered, first)]
    assert matches(_new_view(right), decision)
    wrong = list(right)
    if how == "add" or not right:
        wrong.append(PrePrepare(0, 1, 5, first + len(right), A))
    else:
        where %= len(right)
        entry = wrong.pop(where)
        if how != "omit":
            other = {
                "change": PrePrepare(0, 1, 5, entry.seq, b"x" * 32),
                "view": PrePrepare(0, 1, 4, entry.seq, entry.digest),
                "seq": PrePrepare(0, 1, 5, entry.seq + 1, entry.digest),
            }
            wrong.insert(where, other[how])
    assert not matches(_new_view(wrong), decision)


def _new_view(ordered: list[PrePrepare]) -> Received[NewView]:
    message = NewView(0, 1, 5, (), ())
    return Received(message, NOTHING, pre_prepares=tuple(ordered))


@pytest.mark.parametrize(
    ("stable", "seqs"), [(8, [8]), (8, [3]), (0, [17]), (0, [2, 1]), (0, [1, 1])]
)
def test_certificates_outside_the_window_or_out_of_order(stable: int, seqs: list[int]) -> None:
    entries = tuple(PrePrepare(0, 0, 0, seq, A) for seq in seqs)
    message = ViewChange(0, 1, 5, stable, A, (), ())
    received = Received(message, NOTHING, prepared=entries)
    with pytest.raises(PeerFault):
        check_window(received, 16)
