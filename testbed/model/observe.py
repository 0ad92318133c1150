"""What a run says of the phases of its blocks, for `consensus.calibrate`."""

from __future__ import annotations

from statistics import fmean

from testbed.bundle import RunFolder
from testbed.checks.evidence import Evidence
from testbed.checks.logs import BlockDone
from testbed.errors import ConfigurationError
from testbed.model.consensus import Observation

__all__ = ["observe"]


def observe(run: RunFolder) -> Observation:
    """Means over all blocks whose proposer timed both phases, each on that proposer's clock.

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
