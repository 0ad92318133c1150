"""Merkle trees as in RFC 9162: every path verifies, and nothing else does."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import merkle
from chain.merkle import EMPTY_ROOT, leaf_hash, paths, root, root_from_path


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


leaf_lists = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_root_is_the_definition_s(leaves: list[bytes]) -> None:
    assert root([leaf_hash(leaf) for leaf in leaves]) == by_definition(leaves)


@pytest.mark.parametrize("size", range(1, 34))
def test_every_path_leads_to_the_root_and_only_from_its_place(size: int) -> None:
    hashes = [leaf_hash(bytes([each])) for each in range(size)]
    for index in range(size):
        proof = paths(hashes)[index]
        for place in range(size + 1):
            reached = root_from_path(hashes[index], place, size, proof)
            assert (reached == root(hashes)) == (place == index)


def test_all_paths_cost_one_hash_per_node_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []

    def counting(data: bytes) -> Any:
        hashed.append(data)
        return sha256(data)

    monkeypatch.setattr(merkle, "sha256", counting)
    paths([bytes(32)] * 1000)
    assert len(hashed) < 1000


@given(leaf_lists, st.data())
def test_any_altered_bit_misses_the_root(leaves: list[bytes], draw: st.DataObject) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    index = draw.draw(st.integers(0, len(leaves) - 1))
    parts = [hashes[index], *paths(hashes)[index]]
    victim = draw.draw(st.integers(0, len(parts) - 1))
    bit = draw.draw(st.integers(0, 255))
    number = int.from_bytes(parts[victim], "big") ^ (1 << bit)
    parts[victim] = number.to_bytes(32, "big")
    assert root_from_path(parts[0], index, len(leaves), parts[1:]) != root(hashes)


@given(leaf_lists, st.data())
def test_a_path_of_another_length_is_refused(leaves: list[bytes], draw: st.DataObject) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    index = draw.draw(st.integers(0, len(leaves) - 1))
    proof = paths(hashes)[index]
    assert root_from_path(hashes[index], index, len(leaves), (*proof, bytes(32))) is None
    if proof:
        assert root_from_path(hashes[index], index, len(leaves), proof[:-1]) is None


def test_a_node_does_not_pass_for_a_leaf() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert root([left, right]) != leaf_hash(left + right)


def test_edges() -> None:
    assert root([]) == EMPTY_ROOT
    assert root_from_path(leaf_hash(b""), 0, 0, ()) is None
    assert paths([]) == []
