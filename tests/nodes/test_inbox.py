"""The inbox: order per party, fair turns, and a sign to stop reading."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.ports import Party
from nodes.wire.inbox import (
    FRAME_COST_BYTES,
    PEER_FRAMES_MAX,
    QUEUE_BYTES_MAX,
    TURN_BYTES_MAX,
    TURN_FRAMES_MAX,
    Arrivals,
    Inbox,
)


@pytest.mark.parametrize(("flooder", "share"), [(1, PEER_FRAMES_MAX), ("gateway", TURN_FRAMES_MAX)])
def test_a_flood_of_one_party_does_not_keep_another_waiting(flooder: Party, share: int) -> None:
    inbox = Inbox()
    for _ in range(10 * TURN_FRAMES_MAX):
        inbox.put(flooder, b"flood")
    inbox.put(2, b"vote")
    turn = inbox.take()
    assert (2, b"vote") in turn
    assert len(turn) == share + 1


def test_a_full_queue_says_so_until_enough_is_taken() -> None:
    inbox = Inbox()
    frame = bytes(TURN_BYTES_MAX // 4)
    while not inbox.full(1):
        inbox.put(1, frame)
    assert not inbox.full(2)
    assert sum(len(frame) for _, frame in inbox.take()) <= TURN_BYTES_MAX + len(frame)
    while inbox:
        inbox.take()
    assert not inbox.full(1)
    assert QUEUE_BYTES_MAX >= TURN_BYTES_MAX


@pytest.mark.parametrize("party", [1, "gateway"])
def test_frames_without_content_fill_a_queue_too(party: Party) -> None:
    """Four bytes on the wire each, a hundred and more in memory: they must end the reading."""
    inbox = Inbox()
    for _ in range(QUEUE_BYTES_MAX // FRAME_COST_BYTES + 1):
        inbox.put(party, b"")
    assert inbox.full(party)
    inbox.take()
    while inbox:
        inbox.take()
    assert not inbox.full(party)


@given(st.lists(st.tuples(st.sampled_from([1, 2, "gateway"]), st.binary(max_size=20))))
def test_everything_comes_out_once_and_in_order(frames: list[tuple[Party, bytes]]) -> None:
    inbox = Inbox()
    taken: list[tuple[Party, bytes]] = []
    for at, (party, frame) in enumerate(frames):
        inbox.put(party, frame)
        if at % 3 == 0:
            taken += inbox.take()
    while inbox:
        taken += inbox.take()
    for party in (1, 2, "gateway"):
        assert [f for p, f in taken if p == party] == [f for p, f in frames if p == party]


def test_whoever_waits_gets_what_comes_and_hears_that_the_wire_failed() -> None:
    async def both() -> None:
        inbox = Arrivals()
        asyncio.get_running_loop().call_soon(inbox.put, 1, b"frame")
        assert await inbox.turn() == [(1, b"frame")]
        asyncio.get_running_loop().call_soon(inbox.fail, RuntimeError("a bug"))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a bug"):
                await asyncio.wait_for(inbox.turn(), 60)

    asyncio.run(both())
