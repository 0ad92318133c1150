"""Prepared leaves are the leaves: `LeafTemplate` gives byte for byte what `encode_leaf` gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from chain.errors import PeerFault
from chain.ledger.statement import OK, LeafTemplate, Statement, decode_leaf, encode_leaf, item_of

HASH = st.binary(min_size=32, max_size=32)
NUMBER = st.integers(min_value=0, max_value=2**62)
KINDS = st.fixed_dictionaries(
    {
        "network": HASH,
        "op": st.just("data"),
        "status": st.just(OK),
        "node": HASH,
        "time_us": NUMBER,
        "request": HASH,
        "item": HASH,
        "counter": NUMBER.filter(bool),
        "service": st.text(min_size=1, max_size=20),
        "privilege": st.none() | st.integers(min_value=0, max_value=255),
        "key": st.none() | st.binary(min_size=32, max_size=255),
        "certificate": st.none() | NUMBER,
        "board": st.none() | HASH,
    }
)


@given(KINDS, HASH, NUMBER.filter(bool), HASH, NUMBER)
def test_a_line_gives_the_leaves_of_all_statements_of_its_kind(
    fields: dict[str, Any], item: bytes, counter: int, request: bytes, time_us: int
) -> None:
    prepared = LeafTemplate(Statement(**fields))
    statement = replace(
        Statement(**fields), item=item, counter=counter, request=request, time_us=time_us
    )
    leaf = prepared.leaf(item, counter, request, time_us)
    assert leaf == encode_leaf(statement)
    assert decode_leaf(leaf) == statement


@given(KINDS, st.none() | HASH)
def test_the_item_is_read_without_the_rest(fields: dict[str, Any], by: bytes | None) -> None:
    assert item_of(encode_leaf(Statement(**fields, by=by))) == fields["item"]


@given(KINDS, st.integers(min_value=0), st.binary(max_size=80))
def test_what_has_no_item_is_a_fault_of_who_sent_it(
    fields: dict[str, Any], cut: int, garbage: bytes
) -> None:
    leaf = encode_leaf(Statement(**fields))
    at = leaf.index(b"\x64item\x58\x20") + 6 + 32
    for data in (leaf[: cut % at], garbage):
        with pytest.raises(PeerFault):
            item_of(data)
