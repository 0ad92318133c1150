"""Reads from a run's files the phases of its blocks (for `consensus.calibrate`).

From a traced run it also reads the times of links and disks (for `real_core`).
"""

from __future__ import annotations

from statistics import fmean, median, quantiles

import msgspec

from gateway.hops import Hop
from testbed.bundle import RunFolder
from testbed.checks.evidence import Evidence
from testbed.checks.logs import BlockDone
from testbed.errors import ConfigurationError
from testbed.model.consensus import Observation
from testbed.report.measure import operations
from testbed.report.where import where_of

__all__ = ["Observed", "observe", "observe_hardware"]

_DELAYS_MIN = 20  # so many delays must be known for a distribution
_QUANTILES = 40


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of a link's delay, and the time of a sync, as in `testbed.simulate.costs.Costs`."""

    delays_us: tuple[int, ...]
    sync_us: float
    requests: int
    blocks: int


def observe(run: RunFolder) -> Observation:
    """Means over all blocks for which the proposer timed both phases, on its own clock.

    Raises ConfigurationError if there is none.
    """
    evidence = Evidence(run)
    timed = [
        (
            (block.prepared_us - block.proposed_us) / 1000,
            (block.committed_us - block.prepared_us) / 1000,
        )
        for block in evidence.events(BlockDone)
        if block.proposed_us is not None
        and block.prepared_us is not None
        and block.committed_us is not None
    ]
    if not timed:
        raise ConfigurationError(f"{run.path}: no block in its logs with both phases timed")
    return Observation(
        replicas=len(evidence.genesis.members),
        blocks=len(timed),
        prepared_ms=fmean(prepared for prepared, _ in timed),
        committed_ms=fmean(committed for _, committed in timed),
    )


def observe_hardware(run: RunFolder) -> Observed:
    """Links: from a gateway's send until a replica has read it. Syncs: at all replicas, between
    prepared and the COMMIT. Raises ConfigurationError if the traces are not enough."""
    evidence = Evidence(run)
    where = where_of(evidence, operations(evidence))
    links = [step for _, steps in where.paths for step in steps if step.hop is Hop.ARRIVED]
    known = [step.took_ns / 1000 for step in links if step.state == "known"]
    syncs = [step.took_ns / 1000 for step in where.blocks if step.hop is Hop.SYNCED]
    if not links or not syncs:
        why = "; ".join(where.problems) or "no traces"
        raise ConfigurationError(f"{run.path}: {why}; fix: testbed run ... --trace-every 1")
    if len(known) < max(_DELAYS_MIN, len(links) / 2):
        bound_ms = max(step.bound_ns for step in links) / 1e6
        raise ConfigurationError(
            f"{run.path}: of {len(links)} requests only {len(known)} have a link delay above the "
            f"bound of the clocks ({bound_ms:.3g} ms): these links are too fast to be measured"
        )
    return Observed(
        delays_us=tuple(round(us) for us in quantiles(known, n=_QUANTILES)),
        sync_us=round(median(syncs), 1),
        requests=len(known),
        blocks=len({step.height for step in where.blocks}),
    )
