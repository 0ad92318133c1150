"""Ranges of blocks: joined from stored blocks as the codec would, cut and put together again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.proofs.client import BlockRange, SealedBlock, decode_range, encode_range
from gateway.bridge.block_store import BlockStore
from gateway.bridge.edge import PART_BYTES_MAX, Part
from gateway.bridge.parts import RANGES_MAX, Assembly, join, split
from tests.chain.world import World


@given(st.integers(0, 5 * PART_BYTES_MAX), st.randoms())
def test_parts_in_any_order_and_twice_come_together(size: int, random: st.DataObject) -> None:
    data = bytes(size)
    parts = split(3, 9, 20, data) * 2
    random.shuffle(parts)  # type: ignore[attr-defined]
    assembly = Assembly()
    whole = [done for part in parts if (done := assembly.add(part)) is not None]
    assert whole[0] == data


def test_answers_of_several_gateways_do_not_disturb_each_other() -> None:
    assembly = Assembly()
    one, two = split(1, 2, 9, bytes(PART_BYTES_MAX + 1))
    three, four = split(1, 3, 9, bytes(PART_BYTES_MAX + 2))
    assert assembly.add(one) is assembly.add(three) is None
    assert assembly.add(two) == bytes(PART_BYTES_MAX + 1)
    assert assembly.add(four) == bytes(PART_BYTES_MAX + 2)


def test_only_a_few_unfinished_ranges_are_kept() -> None:
    assembly = Assembly()
    one, two = split(1, 2, 9, bytes(PART_BYTES_MAX + 1))
    assembly.add(one)
    for start in range(2, 2 + RANGES_MAX):
        assembly.add(split(start, start, 9, bytes(PART_BYTES_MAX + 1))[0])
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
    stored = store.range(1, 10**9, bodies)
    wanted = BlockRange(start=1, blocks=tuple(blocks[:count]))
    joined = join(1, stored[:count])
    assert joined == encode_range(wanted)
    assert decode_range(joined) == wanted
