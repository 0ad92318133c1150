"""A replica whose process stood still (SIGSTOP, SIGCONT) votes again at once.

While it lags, f = 1 is used up: the next fault stops the chain.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chain.genesis import Consensus
from chain.pbft.effects import Timer
from tests.chain.cluster import Cluster

SECOND_US = 1_000_000
PAUSE_US = 77_000  # 13 requests a second
TIMEOUT_US = Consensus().view_timeout_us


class _Loaded:
    """A cluster of the product's size under a steady load, and how long its chain stood still."""

    def __init__(self) -> None:
        self.cluster = Cluster(consensus=Consensus())
        self.gap_us = 0
        self._asked = 0
        self._grew_us = self.cluster.now_us

    @property
    def height(self) -> int:
        return max(self.cluster.heights())

    def run(self, duration_us: int, until: Callable[[], bool] = lambda: False) -> None:
        cluster = self.cluster
        end_us = cluster.now_us + duration_us
        while cluster.now_us < end_us and not until():
            self._asked += 1
            running = [i for i in cluster.nodes if i not in cluster.stopped]
            cluster.request(f"r{self._asked}", to=running[:2])
            before = self.height
            cluster.run(PAUSE_US)
            if self.height > before:
                self._grew_us = cluster.now_us
            self.gap_us = max(self.gap_us, cluster.now_us - self._grew_us)

    def stop(self, i: int, duration_us: int, lossy: bool = False) -> None:
        if lossy:
            self.cluster.isolate(i)
        self.cluster.stop(i)
        self.run(duration_us)
        self.cluster.heal()
        self.cluster.resume(i)


@pytest.mark.parametrize("lossy", [False, True], ids=["frames wait", "frames are lost"])
def test_a_replica_that_was_stopped_has_caught_up_within_a_second(lossy: bool) -> None:
    """What it missed is too old for its vote, but not for its execution; and if it was lost, others
    send it again to a replica that is behind, whether it stands still or moves."""
    loaded = _Loaded()
    loaded.run(2 * SECOND_US)
    loaded.stop(3, 9 * SECOND_US, lossy)
    nodes = loaded.cluster.nodes
    loaded.run(SECOND_US, until=lambda: nodes[3].ledger.height == loaded.height)
    assert nodes[3].ledger.height == loaded.height
    assert loaded.cluster.views() == [0, 0, 0, 0]
    assert not loaded.cluster.accusations


@pytest.mark.parametrize("lossy", [False, True], ids=["frames wait", "frames are lost"])
@pytest.mark.parametrize("second", [0, 1, 2])
def test_the_next_replica_may_stop_soon_after_the_first_is_back(second: int, lossy: bool) -> None:
    loaded = _Loaded()
    loaded.run(2 * SECOND_US)
    loaded.stop(3, 9 * SECOND_US, lossy)
    loaded.run(300_000)
    loaded.stop(second, 10 * SECOND_US)
    loaded.run(2 * SECOND_US)
    assert loaded.gap_us <= 2 * TIMEOUT_US
    assert len(set(loaded.cluster.heights())) == 1
    assert not loaded.cluster.accusations


def test_a_replica_that_stood_still_suspects_nobody_for_it() -> None:
    """Its timer ran out while it stood still: it is armed again before it is judged."""
    loaded = _Loaded()
    loaded.run(2 * SECOND_US)
    node = loaded.cluster.nodes[3]
    loaded.cluster.isolate(3)
    loaded.cluster.request("its own", to=3)
    loaded.cluster.stop(3)
    loaded.run(9 * SECOND_US)
    loaded.cluster.resume(3)
    assert node.timers[Timer.VIEW] < loaded.cluster.now_us
    loaded.cluster.run(TIMEOUT_US // 2)
    assert node.replica.active
    assert node.replica.view == 0
