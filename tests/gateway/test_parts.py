"""Ranges of blocks: joined from stored blocks as the codec would, cut and put together again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.client import BlockRange, SealedBlock, decode_range, encode_range
from chain.errors import PeerFault
from gateway.block_store import BlockStore
from gateway.edge import PART_BYTES_MAX, Part
from gateway.parts import Assembly, join, split
from tests.chain.world import World


@given(st.integers(0, 5 * PART_BYTES_MAX), st.randoms())
def test_parts_in_any_order_and_twice_come_together(size: int, random: st.DataObject) -> None:
    data = bytes(size)
    parts = split(3, 9, 20, data) * 2
    random.shuffle(parts)  # type: ignore[attr-defined]
    assembly = Assembly()
    whole = [done for part in parts if (done := assembly.add(part)) is not None]
    assert whole[0] == data


def test_a_part_of_another_range_begins_anew() -> None:
    assembly = Assembly()
    one, two = split(1, 2, 9, bytes(PART_BYTES_MAX + 1))
    assert assembly.add(one) is None
    assert assembly.add(Part(start=5, stop=5, tip=9, part=0, parts=1, data=b"x")) == b"x"
    assert assembly.add(two) is None


def test_a_part_beyond_the_last_is_a_peer_fault() -> None:
    with pytest.raises(PeerFault):
        Assembly().add(Part(start=1, stop=1, tip=1, part=2, parts=2, data=b""))


@pytest.mark.parametrize("count", [0, 1, 23, 24, 255, 256, 512])
@pytest.mark.parametrize("bodies", [True, False])
def test_stored_blocks_join_into_the_encoding_of_their_range(
    tmp_path: Path, count: int, bodies: bool
) -> None:
    world = World()
    world.idle(max(count, 1))
    store = BlockStore(tmp_path / "copy", world.network)
    blocks = []
    for height, block in enumerate(world.blocks, 1):
        seals = tuple(world.seals(block, 0, 1)) if height < 3 else ()
        sealed = SealedBlock(head=block.head, seals=seals, records=())
        store.append(height, sealed)
        blocks.append(sealed if bodies else SealedBlock(head=block.head, seals=seals))
    _, stored = store.range(1, 10**9, bodies)
    wanted = BlockRange(start=1, blocks=tuple(blocks[:count]))
    joined = join(1, stored[:count])
    assert joined == encode_range(wanted)
    assert decode_range(joined) == wanted
