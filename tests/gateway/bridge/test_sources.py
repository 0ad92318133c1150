"""One replica that dribbles, or sends nothing, holds the gateway back for a moment only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from gateway.bridge.sources import PERIOD_S, Sources

TICK_S = 0.1
RATE = 10  # blocks that the chain makes each second


@dataclass
class Stream:
    """A replica as a source: how many bodies it sends at most in a second."""

    per_s: float
    sent: float = 0.0  # the height of the newest body that it has sent


@dataclass
class Gateway:
    """Blocks are final when a source has brought their body; the heads are always there."""

    streams: dict[int, Stream]
    height: int = 0
    tip: float = 0.0
    now_s: float = 0.0
    brought: Counter[int] = field(default_factory=Counter)
    used: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sources = Sources(0.0)
        self.sources.fill(self.streams, self.brought)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.tip += RATE * TICK_S
            for replica in self.sources:
                self.used.add(replica)
                self.take(replica)
            replaced = self.sources.judge(
                self.streams, self.height, int(self.tip), self.brought, self.now_s
            )
            for replica in replaced or ():
                self.streams[replica].sent = self.height  # subscribed again

    def take(self, replica: int) -> None:
        stream = self.streams[replica]
        stream.sent = min(self.tip, stream.sent + stream.per_s * TICK_S)
        if int(stream.sent) > self.height:
            self.brought[replica] += int(stream.sent) - self.height
            self.height = int(stream.sent)


HONEST = 200.0


@pytest.mark.parametrize("dribble", [0.0, 0.5, 1.0, 5.0, 9.0])
@pytest.mark.parametrize("liars", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_liars_among_the_sources_hold_nobody_back(dribble: float, liars: tuple[int, ...]) -> None:
    """With f of 3f+1 that send too little: within f+1 periods an honest replica is a source. A lag
    of one period, one second, may last."""
    count = 3 * len(liars) + 1
    gateway = Gateway({each: Stream(dribble if each in liars else HONEST) for each in range(count)})
    for _ in range(7):
        gateway.run(10)
        assert gateway.tip - gateway.height <= 1.3 * RATE * PERIOD_S


def test_an_honest_source_that_catches_up_is_not_replaced() -> None:
    """It is behind, but it is the faster one."""
    gateway = Gateway({0: Stream(0.5), 1: Stream(50.0), 2: Stream(0.0), 3: Stream(0.0)}, tip=1000.0)
    gateway.run(60)
    assert 1 in gateway.sources
    assert gateway.tip - gateway.height <= RATE * TICK_S + 1


def test_good_sources_stay() -> None:
    gateway = Gateway({each: Stream(HONEST) for each in range(4)})
    gateway.run(60)
    assert gateway.used == {0, 1}


def test_a_lost_link_is_replaced_at_once() -> None:
    sources = Sources(0.0)
    assert sources.fill([0, 1, 2], Counter()) == [0, 1]
    assert sources.fill([1, 2], Counter()) == [2]
    assert set(sources) == {1, 2}
    assert sources.fill([1], Counter()) == []
    assert set(sources) == {1}


def test_where_replicas_prune_enough_of_them_are_sources() -> None:
    """f+1 must bring the same pruned body (`chain.proofs.client`); here f is 2."""
    assert Sources(0.0, 3).fill(range(7), Counter()) == [0, 1, 2]
