"""The head: 168 bytes at the offsets that the module documents, so that a shell can cut it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.block import HEAD_BYTES, Head, genesis_head
from chain.errors import Misuse, PeerFault
from chain.merkle import EMPTY_ROOT

hashes = st.binary(min_size=32, max_size=32)
u64, u32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
heads = st.builds(
    Head,
    network=hashes,
    height=u64,
    time_us=u64,
    parent=hashes,
    parent_root=hashes,
    root=hashes,
    epoch=u32,
    view=u32,
    count=u32,
)


@given(heads)
def test_encode_and_decode_are_inverse_and_fields_stand_where_documented(head: Head) -> None:
    data = head.encode()
    assert Head.decode(data) == head
    assert len(data) == HEAD_BYTES == 168
    assert data[:12] == b"m2m-head/1\0\0"
    assert data[12:44] == head.network
    assert int.from_bytes(data[44:52], "big") == head.height
    assert int.from_bytes(data[52:60], "big") == head.time_us
    assert (data[60:92], data[92:124], data[124:156]) == (
        head.parent,
        head.parent_root,
        head.root,
    )
    numbers = [int.from_bytes(data[at : at + 4], "big") for at in (156, 160, 164)]
    assert numbers == [head.epoch, head.view, head.count]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_head(data: bytes) -> None:
    with pytest.raises(PeerFault, match="bad-head"):
        Head.decode(data)


def test_the_genesis_head_follows_from_the_genesis() -> None:
    head = Head.decode(genesis_head(bytes(32), 7))
    assert (head.height, head.time_us, head.root, head.count) == (0, 7, EMPTY_ROOT, 0)


def test_a_field_out_of_range_is_our_mistake() -> None:
    head = Head.decode(genesis_head(bytes(32), 7))
    for wrong in (
        msgspec.structs.replace(head, height=-1),
        msgspec.structs.replace(head, view=2**32),
    ):
        with pytest.raises(Misuse):
            wrong.encode()
