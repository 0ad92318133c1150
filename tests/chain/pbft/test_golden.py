"""The main scenarios as transcripts to read, in tests/chain/pbft/golden.

`pytest --rewrite-golden` writes them again; a changed transcript is reviewed as code.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.chain.cluster import Cluster

Golden = Callable[[str, str], None]


def test_normal_case(golden: Golden) -> None:
    """OSDI'99, figure 1: PRE-PREPARE, PREPARE, COMMIT; what waits goes into the next batch."""
    cluster = Cluster()
    cluster.request("a", "b", "c", "d")
    cluster.settle()
    golden("normal_case.txt", cluster.story())


def test_view_change(golden: Golden) -> None:
    """The primary fails when "a" is prepared but nobody has committed it: it is kept."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: type(message).__name__ == "Commit"
    cluster.request("a")
    cluster.run(5_000)
    cluster.heal()
    cluster.crash(0)
    cluster.request("b", to=[1, 2, 3])
    cluster.settle()
    golden("view_change.txt", cluster.story())


def test_checkpoint(golden: Golden) -> None:
    """Every K = 8 blocks: CHECKPOINT, stable with q of them, the log window moves."""
    cluster = Cluster()
    for number in range(9):
        cluster.request(f"r{number}")
        cluster.settle()
    cluster.run(2_000)
    golden("checkpoint.txt", cluster.story())


def test_lagging_replica(golden: Golden) -> None:
    """Replica 3 misses 20 blocks, learns of a proven checkpoint and fetches proven blocks."""
    cluster = Cluster()
    cluster.isolate(3)
    for number in range(20):
        cluster.request(f"r{number}")
        cluster.settle()
    cluster.transcript.clear()
    cluster.heal()
    cluster.settle()
    golden("lagging_replica.txt", cluster.story())


def test_membership_change(golden: Golden) -> None:
    """Replica 4 is added by block 7: it votes from block 9 on, after checkpoint 8."""
    cluster = Cluster()
    for number in range(6):
        cluster.request(f"r{number}")
        cluster.settle()
    cluster.transcript.clear()
    cluster.request("+4")
    cluster.settle()
    cluster.join(4)
    cluster.request("x")
    cluster.settle()
    cluster.run(400_000)
    cluster.request("y")
    cluster.settle()
    golden("membership_change.txt", cluster.story())
