"""`summary.json`: the stable result for programs (schema testbed.summary/2).

A result is a campaign of one or more runs. `Summary` is about all runs. Each of its `runs` has a
`RunSummary`, which is also in that run's own directory.

Fields are only ever added within a schema version; README.md explains them one by one. `conclude`
makes the summary of a run from its raw files, `over_runs` the one of all runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from testbed.checks.stats import Finite, Latency, NonNegative, Number
from testbed.manifest import Arm, Attempt, RunState, Stage
from testbed.report.pairing import Estimate
from testbed.traces.clocks import State

__all__ = [
    "EXIT_CODES",
    "AttackResult",
    "AttackVerdict",
    "ClaimResult",
    "ClaimVerdict",
    "Counts",
    "FaultOverRuns",
    "FaultResult",
    "Figure",
    "LatencyTable",
    "Load",
    "LoadTable",
    "PropertyResult",
    "RunRow",
    "RunSummary",
    "RunVerdict",
    "SkippedResult",
    "Summary",
    "Verdict",
    "worst_ms",
]

RunVerdict = Literal["passed", "degraded", "failed", "invalid"]
Verdict = Literal["passed", "degraded", "failed", "partial", "invalid"]
ClaimVerdict = Literal["held", "broken", "invalid", "skipped"]
AttackVerdict = Literal["held", "broken", "degraded", "invalid"]
# Exit codes. "invalid" says nothing about what was tested: the lab did not do what
# was planned.
EXIT_CODES: dict[Verdict, int] = {
    "passed": 0,
    "failed": 1,
    "degraded": 1,
    "partial": 4,
    "invalid": 3,
}


class FaultResult(msgspec.Struct, frozen=True, kw_only=True):
    """One injected fault event. `recovery_ms`: from healing to the first block that was proposed
    after it, None if there was none (censored) or it was never healed. The true time is within
    `recovery_bound_ms` of it, which the clocks of a lab leave open. `recovery_state`: known;
    unresolvable (shorter than the bound); unknown (a clock was set meanwhile, or never read: then
    `recovery_ms` is None); None if it never recovered. `whole_ms`: from healing until the target
    was clean, running and caught up. `seen` says what showed the effect.
    `started_late_ms`: how much later than planned it was applied."""

    id: str
    kind: str
    target: str
    applied: bool
    observed: bool
    healed: bool
    recovery_ms: NonNegative | None
    recovery_bound_ms: NonNegative | None = None
    recovery_state: State | None = None
    whole_ms: NonNegative | None = None
    seen: str = ""
    started_late_ms: Finite | None = None


class SkippedResult(msgspec.Struct, frozen=True, kw_only=True):
    """An event that cannot be done in this lab, and why. It was not done, so it proves nothing."""

    id: str
    kind: str
    reason: str


class FaultOverRuns(msgspec.Struct, frozen=True, kw_only=True):
    """One fault over all counted runs. `targets`: everything that it hit. `recovery_ms` and
    `whole_ms`: the worst value of each run; a run that never recovered is censored."""

    id: str
    kind: str
    targets: tuple[str, ...]
    runs: int
    injected: int
    applied: int
    observed: int
    healed: int
    recovery_ms: Estimate
    whole_ms: Estimate


class AttackResult(msgspec.Struct, frozen=True, kw_only=True):
    """One attack, in one run or over all counted `runs`. `trials` were sent, `observed` of them
    seen to arrive, `distinct` of these differ.

    `successes` is what the kind's own judge found in ledgers and logs. `upper95` bounds the success
    rate, over distinct observed trials only: repeating a deterministic refusal proves nothing.
    `verdict`: "broken" if any trial succeeded. "held" if none did, every attempt was seen and, over
    all runs, `upper95` is at most `allowed` (what the campaign asks). Else "invalid": too little
    was seen to arrive. ("degraded" is for comparisons with a baseline.) `refused` counts what the
    system said, as "layer:reason". `details` are figures of the kind's own: sums over the runs.
    """

    id: str
    kind: str
    runs: Number = 1
    trials: Number
    observed: Number
    distinct: Number
    successes: Number
    upper95: NonNegative | None
    allowed: NonNegative | None = None
    expected: Literal["held", "broken"] = "held"
    verdict: AttackVerdict
    details: dict[str, Finite] = {}
    refused: dict[str, Number] = {}


class PropertyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One expectation of the campaign, with what was found in words. `held` null: it cannot be
    told. It held in `held_in` of the `runs` it was judged in; null for what is judged over all runs
    together. `expected`: what the campaign wants of it. `weight`: a missed bound makes a result
    degraded, where broken safety makes it failed."""

    name: str
    held: bool | None
    expected: Literal["held", "broken"] = "held"
    weight: Literal["safety", "bound"] = "safety"
    detail: str = ""
    runs: Number = 1
    held_in: Number | None = None


class ClaimResult(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that the campaign tests, and its result. `done`: the faults, attacks and properties
    that show it. `trials`: distinct trials of attacks, all runs together, of which `successes`
    succeeded."""

    claim: str
    sentence: str
    done: tuple[str, ...]
    trials: int
    successes: int
    upper95: float | None
    verdict: ClaimVerdict


class LatencyTable(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds. `admission` and `data`: intended send to verified receipt, at the device;
    `consensus`: proposal to execution, at the primary, one monotonic clock each."""

    admission: Latency
    consensus: Latency
    data: Latency


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Data operations that were intended in some phases.

    Quantiles are over all `sent`; an operation that was never answered is slower than all others.
    Null: the quantile is such an operation, so it took longer than `timeout_ms`.
    """

    phases: tuple[str, ...]
    sent: Number
    answered: Number
    goodput_per_s: NonNegative
    timeout_ms: Number
    p50_ms: NonNegative | None = None
    p99_ms: NonNegative | None = None
    max_ms: NonNegative | None = None


class LoadTable(msgspec.Struct, frozen=True, kw_only=True):
    """`struck`: the phases in which the campaign injects, also in a run that is a baseline;
    `baseline`: the phase of this name. Null if there are none."""

    whole: Load
    struck: Load | None = None
    baseline: Load | None = None

    @property
    def judged(self) -> Load:
        """The load by which campaigns are compared: all phases if nothing is injected."""
        return self.struck or self.whole


def worst_ms(times_ms: Sequence[float | None]) -> float | None:
    """The longest. None if one of them never ended, or there is none."""
    known = [each for each in times_ms if each is not None]
    return max(known) if known and len(known) == len(times_ms) else None


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of one run, from its raw files.

    `verdict` is "failed" if a safety property did not hold or an attack was broken, unless the
    campaign expects that; else "invalid" if the run was cut short, a ledger or a device's log was
    not collected, an injection (fault or attack) was not seen to take effect, or a host was not fit
    (`testbed.checks.conditions`): then nothing can be said; else "degraded" if a bound on liveness
    was missed, or a property that the campaign does not list broke; else "passed".
    `stored_bytes`: the collected ledgers of all replicas together.
    """

    verdict: RunVerdict
    devices_admitted: Number
    devices_expected: Number
    blocks: Number
    blocks_proven: Number
    records: Number
    data_records: Number
    stored_bytes: Number = 0
    ledger_verified: bool
    ledger_problem: str | None = None
    view_changes: Number
    latency_ms: LatencyTable
    load: LoadTable
    faults: tuple[FaultResult, ...] = ()
    attacks: tuple[AttackResult, ...] = ()
    properties: tuple[PropertyResult, ...] = ()
    skipped: tuple[SkippedResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def recovery_ms(self) -> float | None:
        """The worst recovery; None if some fault was not recovered from, or there was none."""
        return worst_ms([fault.recovery_ms for fault in self.faults])


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the schedule, in any state. `summary` is null if it was not judged."""

    index: int
    trial: int
    arm: Arm
    path: str
    state: RunState
    reason: str | None = None
    attempts: tuple[Attempt, ...] = ()
    summary: RunSummary | None = None

    @property
    def counted(self) -> bool:
        """Whether it is in the figures."""
        return self.summary is not None and self.state == "done"

    @property
    def result(self) -> RunSummary:
        """`summary` of a run that was judged."""
        assert self.summary is not None
        return self.summary


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


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Runs: all of the schedule, and how many are in each state. `counted` are in figures."""

    planned: int
    done: int
    invalid: int
    failed: int
    missing: int
    counted: int
    attempts: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign of one or more runs.

    `verdict`: "failed" if a safety property did not hold in some run, an attack was broken, or
    something that the campaign expects to break held in every run. Else "invalid" if no run counts;
    "degraded" if a bound on liveness or degradation was missed; "partial" if some run of the
    schedule does not count, an event was skipped, or something cannot be told from so few runs or
    trials; else "passed".

    `devices_admitted` to `view_changes` are sums over the runs that were judged. `latency_ms` is of
    the counted runs with faults: `n` and `censored` are sums, `max` the largest, other quantiles
    medians over these runs.
    """

    schema: Literal["testbed.summary/2"] = "testbed.summary/2"
    run: str
    campaign: str
    verdict: Verdict
    stage: Stage
    seed: int
    schedule_sha256: str
    commit: str | None
    replicas: int
    f: int
    counts: Counts
    devices_admitted: int
    devices_expected: int
    blocks: int
    blocks_proven: int
    records: int
    data_records: int
    ledger_verified: bool
    ledger_problem: str | None
    view_changes: int
    latency_ms: LatencyTable
    figures: tuple[Figure, ...]
    attacks: tuple[AttackResult, ...] = ()
    faults: tuple[FaultOverRuns, ...] = ()
    properties: tuple[PropertyResult, ...] = ()
    skipped: tuple[SkippedResult, ...] = ()
    claims: tuple[ClaimResult, ...] = ()
    runs: tuple[RunRow, ...] = ()
    notes: tuple[str, ...] = ()
