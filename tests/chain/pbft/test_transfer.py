"""Catching up: by votes when a little behind, by proven blocks when far behind."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from chain.block import Block, Record
from chain.genesis import Consensus
from chain.pbft import transfer
from chain.pbft.messages import (
    Bodies,
    CheckpointProof,
    FetchBodies,
    FetchHeads,
    Heads,
    NewView,
    Signed,
    decode_body,
)
from tests.chain.cluster import LINK_US, SMALL, Cluster
from tests.chain.fakes import item
from tests.chain.node import Node


def far_behind(blocks: int, n: int = 4) -> Cluster:
    cluster = Cluster(n)
    cluster.isolate(n - 1)
    for number in range(blocks):
        cluster.request(f"r{number}")
        cluster.run(4_000)
    cluster.settle(lambda: len(cluster.executed(0)) == blocks)
    return cluster


@pytest.mark.parametrize("blocks", [1, 3, 7, 8, 9, 15, 16, 17, 24, 25, 70])
def test_a_laggard_catches_up_whatever_the_gap(blocks: int) -> None:
    """Less than a checkpoint: by STATUS; more: by state transfer; without a view change."""
    cluster = far_behind(blocks)
    cluster.heal()
    cluster.settle(limit_us=5_000_000)
    assert cluster.executed(3) == cluster.executed(0)
    assert max(cluster.views()) == 0
    assert not cluster.accusations


def test_a_laggard_catches_up_while_the_others_go_on() -> None:
    cluster = far_behind(100)
    cluster.heal()
    for number in range(200):
        cluster.request(f"live{number}")
        cluster.run(3_500)
    cluster.settle(limit_us=5_000_000)


def test_a_laggard_forgets_what_its_lost_proposals_held() -> None:
    """A primary that was cut off with a proposal of its own fetches the chain that others made
    without it, before it hears of their view. The request in that proposal was never executed: it
    is as good as any other, and whoever proposes it is not to blame (seed 25340 of 100,000)."""
    cluster = Cluster()
    cluster.isolate(0)
    cluster.request("lost", to=0)
    cluster.request("first", to=[1, 2, 3])
    cluster.settle(lambda: len(cluster.executed(1)) == 1)
    for number in range(40):
        cluster.request(f"r{number}", to=[1, 2, 3])
        cluster.run(4_000)
    cluster.heal()
    cluster.lose = lambda source, to, message: to == 0 and isinstance(message, NewView | Bodies)
    cluster.settle(lambda: cluster.nodes[0].replica.stable == cluster.nodes[1].replica.stable)
    cluster.lose = lambda source, to, message: to == 0 and isinstance(message, NewView)
    cluster.settle(lambda: cluster.nodes[0].ledger.height == cluster.nodes[1].ledger.height)
    cluster.heal()
    cluster.request("lost", to=[1, 2, 3])
    cluster.settle(limit_us=5_000_000)
    assert not cluster.accusations
    assert len(set(cluster.views())) == 1


def test_a_silent_source_is_passed_over() -> None:
    cluster = far_behind(60, n=7)
    cluster.heal()
    cluster.lose = lambda source, to, message: (
        to in (1, 2) and isinstance(message, FetchHeads | FetchBodies)
    )
    cluster.settle(limit_us=10_000_000)
    assert not cluster.accusations


@pytest.mark.parametrize("link_us", [300_000, 1_000_000, 2_500_000])
def test_blocks_arrive_over_links_that_are_slower_than_a_source_may_take(link_us: int) -> None:
    """Another source is asked in the meantime; what the first one sends counts all the same (seed
    29873 of 100,000)."""
    cluster = far_behind(60)
    cluster.heal()
    cluster.delay = lambda source, to: link_us if 3 in (source, to) else LINK_US
    cluster.settle(limit_us=60_000_000)
    assert cluster.executed(3) == cluster.executed(0)
    assert not cluster.accusations


def test_a_liar_that_answers_first_whoever_is_asked_holds_nothing_up() -> None:
    """Once it was asked it goes on sending blocks under true heads with other records in them,
    faster than whoever is asked after it. Only the install shows the lie."""
    cluster = far_behind(60, n=7)
    cluster.heal()
    cluster.byzantine = {1}
    liar = cluster.nodes[1]
    cluster.delay = lambda source, to: LINK_US if source == 1 else 7_000
    asked: Counter[int] = Counter()

    def lie(source: int, to: int, signed: Signed) -> Signed | None:
        message = decode_body(signed.body)
        if source == 6 and isinstance(message, FetchBodies):
            true = liar.ledger.blocks[message.start : message.stop + 1]
            forged = tuple(Block(block.head, ()) for block in true)
            asked[message.start] += 1
            for _ in range(10):
                liar.answer(6, Bodies(0, 1, message.start, forged))
        return None if (source, to) == (6, 1) and isinstance(message, FetchBodies) else signed

    cluster.on_post = lie
    cluster.settle(limit_us=10_000_000)
    assert cluster.executed(6) == cluster.executed(0)
    assert cluster.accused() == {(1, "lying-bodies")}
    assert max(asked.values()) == 2, "of a known liar nothing is installed any more"


@pytest.mark.parametrize("pushing", [False, True])
def test_a_source_that_gives_block_by_block_is_passed_over(pushing: bool) -> None:
    """True blocks, one at a time, each before our patience ends; or, pushing, at once whenever
    another is asked. A chain that grows meanwhile would never be caught up with."""
    cluster = far_behind(120, n=7)
    cluster.heal()
    cluster.byzantine = {1}
    slow_us, fast_us = (7_000, LINK_US) if pushing else (LINK_US, 100_000)
    cluster.delay = lambda source, to: fast_us if source == 1 else slow_us
    given: set[int] = set()

    def dribble(source: int, to: int, signed: Signed) -> Signed | None:
        message = decode_body(signed.body)
        if source != 6 or not isinstance(message, FetchBodies):
            return signed
        if to == 1 or pushing:
            given.add(message.start)
            block = cluster.nodes[1].ledger.blocks[message.start]
            cluster.nodes[1].answer(6, Bodies(0, 1, message.start, (block,)))
        return None if to == 1 else signed

    cluster.on_post = dribble
    cluster.settle(limit_us=20_000_000)
    assert given
    assert not any({start + 1, start + 2} <= given for start in given), "asked a third time"
    assert cluster.executed(6) == cluster.executed(0)
    assert not cluster.accusations


def test_one_source_cannot_withhold_the_items_of_data() -> None:
    """It says that it pruned them. Another has them; nobody is accused: it may be true."""
    cluster = far_behind(60, n=7)
    cluster.heal()
    cluster.byzantine = {1}
    cluster.delay = lambda source, to: LINK_US if source == 1 else 7_000

    def withhold(source: int, to: int, signed: Signed) -> Signed | None:
        message = decode_body(signed.body)
        if source != 6 or not isinstance(message, FetchBodies):
            return signed
        blocks = tuple(
            Block(block.head, tuple(Record(record.leaf, b"") for record in block.records))
            for block in cluster.nodes[1].ledger.blocks[message.start : message.stop + 1]
        )
        cluster.nodes[1].answer(6, Bodies(0, 1, message.start, blocks, 2**40))
        return None if to == 1 else signed

    cluster.on_post = withhold
    cluster.settle(limit_us=20_000_000)
    assert cluster.executed(6) == cluster.executed(0)
    assert all(record.item for block in cluster.nodes[6].ledger.blocks for record in block.records)
    assert not cluster.accusations


def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So large that one answer holds two of them."""

    def serve(node: Node, to: int, start: int, stop: int) -> None:
        blocks = tuple(node.ledger.blocks[start : min(stop, start + 1) + 1])
        node.answer(to, Bodies(0, node.me, start, blocks))

    monkeypatch.setattr(transfer, "BODIES_BYTES_MAX", 2 * len(item("r10")))
    monkeypatch.setattr(Node, "_serve_bodies", serve)


@pytest.mark.parametrize("n", [4, 7])
def test_who_has_more_to_say_and_stops_holds_nobody_up(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a piece takes several answers: once it was asked, the liar gives at once, whenever
    another source is in the middle of its own, all of the true blocks but the last; and no more."""
    large_blocks(monkeypatch)
    cluster = far_behind(60, n=n)
    cluster.heal()
    cluster.byzantine = {1}
    laggard, liar = n - 1, cluster.nodes[1]
    cluster.delay = lambda source, to: LINK_US if source == 1 else 7_000

    def push(source: int, to: int, signed: Signed) -> Signed | None:
        message = decode_body(signed.body)
        if source != laggard or not isinstance(message, FetchBodies):
            return signed
        start = message.stop - (message.stop - 1) % SMALL.checkpoint_interval
        blocks = tuple(liar.ledger.blocks[start : message.stop])
        liar.answer(laggard, Bodies(0, 1, start, blocks))
        return None if to == 1 else signed

    cluster.on_post = push
    cluster.settle(limit_us=20_000_000)
    assert cluster.executed(laggard) == cluster.executed(0)


def test_large_blocks_arrive_over_links_that_are_slower_than_a_source_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large_blocks(monkeypatch)
    cluster = far_behind(60)
    cluster.heal()
    cluster.delay = lambda source, to: 600_000 if 3 in (source, to) else LINK_US
    cluster.settle(limit_us=60_000_000)
    assert cluster.executed(3) == cluster.executed(0)
    assert not cluster.accusations


def test_heads_that_skip_checkpoints_do_not_make_us_ask_for_everything_at_once() -> None:
    """All that is true can come in one HEADS, thousands at a time. What is held of their blocks
    before they can be installed has to stay within the bound."""
    cluster = far_behind(200)
    cluster.heal()
    cluster.byzantine = {1}
    liar = cluster.nodes[1]
    (stable,) = {cluster.nodes[i].replica.stable for i in range(3)}
    proof = msgspec.msgpack.decode(liar.store["stable", 0, stable].data, type=CheckpointProof)
    heads = tuple(block.head for block in liar.ledger.blocks[1 : stable + 1])
    asked: set[int] = set()

    def skip(source: int, to: int, signed: Signed) -> Signed | None:
        message = decode_body(signed.body)
        if source == 3 and isinstance(message, FetchHeads) and message.start == 1:
            liar.answer(3, Heads(0, 1, 1, heads, proof.votes))
            return None
        if source == 3 and isinstance(message, FetchBodies):
            asked.update(range(message.start, message.stop + 1))
        return None if to == 3 and isinstance(message, Bodies) else signed

    cluster.on_post = skip
    cluster.run(5_000_000)
    assert 0 < len(asked) <= transfer.INTERVALS_MAX * SMALL.checkpoint_interval
    cluster.on_post = None
    cluster.settle(limit_us=20_000_000)
    assert cluster.executed(3) == cluster.executed(0)


def test_what_waits_to_be_installed_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first piece does not come, the others are not fetched without end."""
    monkeypatch.setattr(transfer, "HELD_BYTES_MAX", 50_000)
    monkeypatch.setattr(transfer, "BODIES_BYTES_MAX", 10_000)
    cluster = Cluster(consensus=Consensus())
    cluster.isolate(3)
    for number in range(150):
        cluster.request(f"r{number} {2000 * 'x'}", to=[0, 1, 2])
        cluster.run(4_000)
    cluster.heal()
    first = cluster.nodes[3].ledger.height + 1
    cluster.lose = lambda source, to, message: (
        isinstance(message, Bodies) and message.start == first
    )
    held = 0

    def measure(source: int, to: int, signed: Signed) -> Signed:
        nonlocal held
        # Memory: no message or effect shows how much waits.
        held = max(held, cluster.nodes[3].replica._s.transfer.held)
        return signed

    cluster.on_post = measure
    cluster.run(6_000_000)
    assert 0 < held <= 50_000
    cluster.lose = lambda source, to, message: False
    cluster.settle(limit_us=20_000_000)
    assert 0 < held <= 50_000 + transfer.PIECE_BLOCKS * 2500


def test_what_was_fetched_can_be_served() -> None:
    """The proofs of every interval are kept: one who caught up helps the next."""
    cluster = far_behind(40)
    cluster.heal()
    cluster.settle()
    cluster.isolate(2)
    for number in range(40):
        cluster.request(f"more{number}")
        cluster.run(4_000)
    cluster.heal()
    cluster.partition([2], [0, 1])  # only 3 can help
    cluster.settle(lambda: cluster.executed(2)[:80] == cluster.executed(3)[:80], 10_000_000)
    assert len(cluster.executed(2)) == 80


def test_a_crash_in_the_middle_of_a_transfer() -> None:
    for boundary in range(1, 8):
        cluster = far_behind(60)
        cluster.heal()
        cluster.nodes[3].crash_at = cluster.nodes[3].writes + boundary
        cluster.run(1_500_000)
        assert not cluster.nodes[3].alive
        cluster.restart(3)
        cluster.request("z")
        cluster.settle(limit_us=5_000_000)


def test_a_state_that_a_quorum_contradicts_stops_the_replica() -> None:
    """Its own ledger is broken, or more than f are faulty: it never goes on from there."""
    cluster = Cluster()
    broken = cluster.nodes[3].ledger
    for number in range(7):
        cluster.request(f"r{number}")
        cluster.settle()
    broken.done[b"a flipped bit"] = 1
    true_execute = broken.execute

    def wrong(proposal: object, requests: object, epoch: int) -> None:
        true_execute(proposal, (), epoch)  # type: ignore[arg-type]

    broken.execute = wrong  # type: ignore[method-assign]
    cluster.check_chain = lambda node: None  # type: ignore[method-assign]
    cluster.request("r8")
    cluster.run(500_000)
    assert cluster.nodes[3].replica.halted
    assert not cluster.nodes[0].replica.halted
