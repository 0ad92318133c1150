"""`summary.json` of a campaign of several runs, schema testbed.campaign-summary/1.

The unit is the run; a run of which nothing can be said is listed, and is in no figure.

Fields are only ever added within a schema version. Making it is in `over_runs`, one run's summary
in `summary`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from testbed.manifest import Attempt, RunState
from testbed.report.pairing import Estimate
from testbed.report.summary import AttackVerdict, Verdict

__all__ = [
    "EXIT_CODES",
    "CampaignSummary",
    "CampaignVerdict",
    "Counts",
    "Expectation",
    "FaultOverRuns",
    "Figure",
    "PooledAttack",
    "RunRow",
]

CampaignVerdict = Literal["passed", "failed", "partial", "invalid"]
EXIT_CODES: dict[CampaignVerdict, int] = {"passed": 0, "failed": 1, "partial": 4, "invalid": 3}


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the schedule, whatever became of it. Figures are null if it is not counted.

    Load is that of the phases in which the campaign injects (all phases if it injects nothing);
    a null quantile of a counted run that `sent` anything took longer than the timeout, and a null
    median of admission is not known exactly, because some were never admitted.
    """

    index: int
    trial: int
    arm: Literal["baseline", "faults"]
    path: str
    state: RunState
    verdict: Verdict | None = None
    reason: str | None = None
    attempts: tuple[Attempt, ...] = ()
    blocks: int | None = None
    records: int | None = None
    view_changes: int | None = None
    sent: int | None = None
    censored: int | None = None
    goodput_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    admission_p50_ms: float | None = None
    consensus_p50_ms: float | None = None
    recovery_ms: float | None = None

    @property
    def counted(self) -> bool:
        return self.verdict is not None and self.state == "done"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity over the runs: medians of both arms, and faults / baseline.

    `against`: "baseline" runs of the same trial, or (in a campaign without such runs) the "phase"
    called baseline of the same run; null if there is nothing to compare with.
    """

    name: str
    unit: str
    baseline: Estimate
    faults: Estimate
    ratio: Estimate | None = None
    against: Literal["baseline", "phase"] | None = None


class PooledAttack(msgspec.Struct, frozen=True, kw_only=True):
    """One attack over all counted runs; the bound is on all distinct observed trials together."""

    id: str
    kind: str
    runs: int
    trials: int
    observed: int
    distinct: int
    successes: int
    upper95: float | None
    allowed: float | None
    verdict: AttackVerdict
    refused: dict[str, int] = {}


class FaultOverRuns(msgspec.Struct, frozen=True, kw_only=True):
    """One fault over all counted runs. `recovery_ms`: the worst of each run, never is censored."""

    id: str
    kind: str
    runs: int
    injected: int
    observed: int
    healed: int
    recovery_ms: Estimate


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """A property over all runs. `held` null: too little is known. `held_in` of `runs` runs."""

    name: str
    held: bool | None
    runs: int
    held_in: int | None = None
    detail: str = ""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Runs: all that the schedule has, and how many are in each state. `counted` are in figures."""

    planned: int
    done: int
    invalid: int
    failed: int
    missing: int
    counted: int
    attempts: int


class CampaignSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`verdict`: "failed" if a property did not hold in some run, or an attack, or a degradation
    over all runs. Else "invalid" if there is no run that counts, "partial" if some run of the
    schedule does not count or the attacks' trials are too few for the bound; else "passed".
    """

    schema: Literal["testbed.campaign-summary/1"] = "testbed.campaign-summary/1"
    run: str
    campaign: str
    verdict: CampaignVerdict
    stage: Literal["loopback", "emulated", "lab", "simulation"]
    seed: int
    schedule_sha256: str
    commit: str | None
    replicas: int
    f: int
    counts: Counts
    figures: tuple[Figure, ...]
    attacks: tuple[PooledAttack, ...] = ()
    faults: tuple[FaultOverRuns, ...] = ()
    properties: tuple[Expectation, ...] = ()
    runs: tuple[RunRow, ...] = ()
    notes: tuple[str, ...] = ()
