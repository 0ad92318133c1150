"""Time to consensus of the code that runs on the boards, in the simulator's virtual time.

`testbed.simulate.priced` makes work take time, at the prices of `Costs` (`calibration`). A `Point`
is one run: a number of replicas, one lever, one seed. `sweep` runs many over an executor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from enum import Enum
from statistics import median
from typing import assert_never

import msgspec

from chain.genesis import Consensus
from chain.quorum import Quorum
from testbed.errors import ConfigurationError, LabFault
from testbed.simulate.costs import Costs
from testbed.simulate.priced import Stopwatch, pricing
from testbed.simulate.scenario import Scenario, quiet
from testbed.simulate.world import Hardware, run

__all__ = ["BATCH", "CORES", "SMALL_GROUP", "Lever", "Point", "Timed", "sweep", "timed"]

BATCH = 64  # requests in flight under `Lever.BATCHES`
CORES = 4  # of each replica under `Lever.CORES`
SMALL_GROUP = (15, 8)  # members, accepts
_BLOCKS_SKIPPED = 1  # the first one has the enrolment
_BATCHES_SKIPPED = 4  # the first blocks have enrolments, and requests that gathered meanwhile
_VIEW_TIMEOUT_US = 600_000_000  # no view changes and no retries, because the normal case is timed


class Lever(Enum):
    """A measure against the cost of votes. Each of the four after `PLAIN` is used alone."""

    PLAIN = "plain"  # every vote verified, one core, one request per block
    SUPERFLUOUS = "superfluous votes unverified"
    COMMITS = "COMMITs counted by link"
    CORES = f"checks on {CORES} cores"
    BATCHES = f"batches of {BATCH}"
    PRODUCT = "the product"  # the first two measures together, as boards run it
    GROUP = f"the product, groups of {SMALL_GROUP[0]}"  # of an access request
    ALL = "all together"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `blocks` is how many are timed."""

    replicas: int
    lever: Lever
    costs: Costs
    blocks: int = 8

    def priced(self) -> Costs:
        """The costs under the lever."""
        checked = {"superfluous_checked": True, "commits_checked": True}
        match self.lever:
            case Lever.PLAIN | Lever.BATCHES:
                changes: dict[str, object] = dict(checked)
            case Lever.SUPERFLUOUS:
                changes = {"commits_checked": True}
            case Lever.COMMITS:
                changes = {"superfluous_checked": True}
            case Lever.CORES:
                changes = {**checked, "cores": CORES}
            case Lever.PRODUCT | Lever.GROUP:
                changes = {}
            case Lever.ALL:
                changes = {"cores": CORES}
            case _:
                assert_never(self.lever)
        return msgspec.structs.replace(self.costs, **changes)

    @property
    def in_flight(self) -> int:
        return BATCH if self.lever in (Lever.BATCHES, Lever.ALL) else 1

    @property
    def group(self) -> tuple[int, int] | None:
        """Members and accepts of the authentication group; None: the default, 2f+1 and f+1."""
        small = self.lever in (Lever.GROUP, Lever.ALL)
        return SMALL_GROUP if small and Quorum.of(self.replicas).strong > SMALL_GROUP[0] else None


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """What one run took, in ms.

    `consensus_ms`: of each block, from the proposal until 2f+1 replicas have executed it.
    `proposer_ms`: of each block, until the proposer has. `access_ms`: the first access request,
    from the device until 2f+1 replicas have executed it. `work_us`: per block and replica, by
    purpose; `counts`: how often, likewise.
    """

    replicas: int
    lever: Lever
    consensus_ms: tuple[float, ...]
    proposer_ms: tuple[float, ...]
    access_ms: float
    records: float  # per block
    work_us: dict[str, float]
    counts: dict[str, float]


def timed(point: Point) -> Timed:
    """Runs one point. Equal points give equal results. Raises LabFault if a property breaks."""
    costs = point.priced()
    stopwatch = Stopwatch()
    outcome = run(_scenario(point), hardware=Hardware(pricing(costs, stopwatch), costs.delay_us))
    if outcome.finding is not None:
        raise LabFault(f"{point.replicas} replicas, {point.lever.value}: {outcome.finding}")
    strong = Quorum.of(point.replicas).strong
    blocks = [(height, stopwatch.blocks[height]) for height in sorted(stopwatch.blocks)]
    whole = [
        (block, (decided_us - block.proposed_us) / 1000)
        for height, block in blocks
        if height > (_BLOCKS_SKIPPED if point.in_flight == 1 else _BATCHES_SKIPPED)
        and block.proposed_us is not None
        and (decided_us := block.decided_us(strong)) is not None
    ]
    # The last blocks of a batched run are partly empty.
    full = max(block.records for block, _ in whole)
    whole = [(block, ms) for block, ms in whole if block.records > full / 2]
    shares = point.replicas * len(blocks)
    spent = stopwatch.spent
    return Timed(
        replicas=point.replicas,
        lever=point.lever,
        consensus_ms=tuple(ms for _, ms in whole),
        proposer_ms=tuple(block.proposer_us / 1000 for block, _ in whole),
        access_ms=(stopwatch.blocks[1].decided_us(strong) or 0) / 1000,
        records=median(block.records for block, _ in whole),
        work_us={what: us / shares for what, us in sorted(spent.us.items())},
        counts={what: count / shares for what, count in sorted(spent.counts.items())},
    )


def _scenario(point: Point) -> Scenario:
    interval = _checkpoint_interval(point.replicas)
    consensus = Consensus(
        checkpoint_interval=interval,
        pipeline_window=min(Consensus().pipeline_window, interval),
        view_timeout_us=_VIEW_TIMEOUT_US,
        view_timeout_us_max=_VIEW_TIMEOUT_US,
    )
    scenario = quiet(point.replicas, consensus, devices=point.in_flight, requests=point.blocks)
    return msgspec.structs.replace(scenario, retry_us=_VIEW_TIMEOUT_US, group=point.group)


def _checkpoint_interval(replicas: int) -> int:
    """The default interval, halved until a NEW-VIEW fits into a frame."""
    interval = Consensus().checkpoint_interval
    while interval and Consensus(checkpoint_interval=interval).replicas_max < replicas:
        interval //= 2
    if not interval:
        raise ConfigurationError(f"{replicas} replicas: no NEW-VIEW fits into a frame")
    return interval


def sweep(
    points: Sequence[Point],
    executor: Executor,
    advance: Callable[[Timed], None] = lambda timed: None,
) -> list[Timed]:
    """Runs all points and returns their results in the same order. The longest are started
    first."""
    order = sorted(range(len(points)), key=lambda place: -points[place].replicas)
    futures = {executor.submit(timed, points[place]): place for place in order}
    found: dict[int, Timed] = {}
    try:
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            advance(found[futures[future]])
    finally:
        for future in futures:
            future.cancel()
    return [found[place] for place in range(len(points))]
