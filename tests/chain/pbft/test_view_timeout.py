"""How long replicas wait for a primary: slow ones find a timeout in which they work, quick ones
come back to the shortest, and a primary that is slow on purpose has little of it."""

from __future__ import annotations

import msgspec
import pytest

from chain.genesis import Consensus
from chain.pbft.messages import Forward, NewView, decode_body
from chain.pbft.view_timeout import FALL_TIMEOUTS, ViewTimeout
from tests.chain.cluster import LINK_US, SMALL, Cluster

BACKUPS = (1, 2, 3)
SECOND_US = 1_000_000


def blocks(cluster: Cluster, count: int, name: str) -> None:
    """One request at a time, known to every replica."""
    for number in range(count):
        cluster.request(f"{name}{number}", to=range(4))
        cluster.settle()


def slow_links(cluster: Cluster, link_us: int) -> None:
    cluster.delay = lambda source, to: link_us


SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    "link_us",
    [400_000, pytest.param(900_000, marks=SOAK), 2_000_000, pytest.param(4_000_000, marks=SOAK)],
)
def test_where_a_block_takes_longer_than_the_timeout_it_grows_and_stays(link_us: int) -> None:
    """Not back to the shortest with each block; and proposals that are older than a message should
    be are accepted in the end, else no block ever were."""
    cluster = Cluster()
    slow_links(cluster, link_us)
    blocks(cluster, 5, "first")
    views = max(cluster.views())
    blocks(cluster, 2 * SMALL.checkpoint_interval, "then")
    # Once per checkpoint interval a shorter timeout is tried.
    assert max(cluster.views()) <= views + 4


def test_quick_blocks_bring_the_shortest_timeout_back() -> None:
    cluster = Cluster()
    slow_links(cluster, 2_000_000)
    blocks(cluster, 3, "slow")
    slow_links(cluster, LINK_US)
    blocks(cluster, 4 * SMALL.pipeline_window + 1, "quick")
    view = max(cluster.views())
    cluster.crash(view % 4)
    cluster.request("after", to=[i for i in range(4) if i != view % 4])
    cluster.settle(limit_us=SMALL.view_timeout_us + 100_000)


def test_a_slow_primary_gets_little_out_of_a_doubled_timeout() -> None:
    """After a checkpoint interval of blocks it must be quicker, or is replaced (Aardvark)."""
    cluster = Cluster()
    slow_links(cluster, 900_000)
    blocks(cluster, 3, "slow")
    slow_links(cluster, LINK_US)
    view = max(cluster.views())
    assert view > 0
    cluster.delay = lambda source, to: 1_500_000 if source == view % 4 else LINK_US
    blocks(cluster, 3 * SMALL.checkpoint_interval, "mean")
    assert max(cluster.views()) > view


def test_a_primary_that_dies_in_a_quick_view_is_not_held_against_the_next() -> None:
    """Two in a row: each costs one timeout, and the second none that was doubled."""
    cluster = Cluster(7)
    for number in range(SMALL.pipeline_window):
        cluster.request(f"r{number}", to=range(7))
        cluster.settle()
    cluster.crash(0, 1)
    cluster.request("after", to=range(2, 7))
    cluster.settle(limit_us=2 * SMALL.view_timeout_us + 100_000)


def test_the_timeout_of_a_new_view_that_never_comes_grows_up_to_its_cap() -> None:
    cluster = Cluster(consensus=msgspec.structs.replace(SMALL, view_timeout_us_max=4_000_000))
    cluster.crash(0)
    cluster.lose = lambda source, to, message: isinstance(message, NewView)
    cluster.request("a", to=BACKUPS)
    cluster.run(60_000_000)
    assert 60 // 4 <= max(cluster.views()) <= 60 // 4 + 3


def test_what_waits_at_many_backups_does_not_bury_the_primary() -> None:
    """A thousand requests at each backup and no progress: the oldest few are handed over, and less
    and less often."""
    cluster = Cluster()
    cluster.isolate(2, 3)
    forwards = 0

    def count(source: int, to: int, signed: object) -> object:
        nonlocal forwards
        forwards += isinstance(decode_body(signed.body), Forward)  # type: ignore[attr-defined]
        return signed

    cluster.on_post = count  # type: ignore[assignment]
    cluster.request(*(f"r{number}" for number in range(1000)), to=1)
    cluster.run(900_000)
    assert 0 < forwards <= 4 * 32
    cluster.heal()
    cluster.request(*(f"r{number}" for number in range(1000)), to=BACKUPS)
    cluster.settle()


def test_the_timeout_falls_with_time_too() -> None:
    """A primary that stays just under the timeout gets minutes, not half an hour, out of a timeout
    that has risen to its maximum."""
    consensus = Consensus()
    timeout = ViewTimeout(consensus)
    while timeout.us < consensus.view_timeout_us_max:
        timeout.failed(active=False)
    timeout.entered(0)
    now_us = 0
    while timeout.us > consensus.view_timeout_us:
        timeout.working(work=True, now_us=now_us)
        now_us += timeout.us - 1
        timeout.executed(now_us)
    assert now_us < 5 * 60 * SECOND_US


def test_replicas_that_need_most_of_a_timeout_keep_it_for_most_of_the_time() -> None:
    """They try a shorter one now and then: one view in nine timeouts fails, not every other."""
    consensus = Consensus()
    timeout = ViewTimeout(consensus)
    block_us = 3 * consensus.view_timeout_us  # needs a timeout of 4 s, and more than half of it
    now_us = failures = 0
    while now_us < 60 * 60 * SECOND_US:
        timeout.working(work=True, now_us=now_us)
        if block_us < timeout.us:
            now_us += block_us
            timeout.executed(now_us)
        else:
            now_us += timeout.us
            timeout.failed(active=True)
            timeout.entered(now_us)
            failures += 1
    assert failures < 60 * 60 * SECOND_US / (FALL_TIMEOUTS * 4 * consensus.view_timeout_us) + 3
