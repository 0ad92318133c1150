"""`summary.json`: the stable, documented, machine-read face of a run (schema testbed.summary/1).

Fields are only ever added within a schema version; README.md tells them one by one. Making it from
the raw files is in `derive`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from testbed.report.stats import Latency

__all__ = [
    "EXIT_CODES",
    "AttackResult",
    "AttackVerdict",
    "FaultResult",
    "LatencyTable",
    "Load",
    "LoadTable",
    "PropertyResult",
    "Summary",
    "Verdict",
]

Verdict = Literal["passed", "failed", "invalid"]
# Of a command that judged a run. "invalid" says nothing about what was tested: the lab did not do
# what was planned.
EXIT_CODES: dict[Verdict, int] = {"passed": 0, "failed": 1, "invalid": 3}
AttackVerdict = Literal["held", "broken", "degraded", "invalid"]


class FaultResult(msgspec.Struct, frozen=True, kw_only=True):
    """One injected fault event. `recovery_ms`: from healing to the first block that was proposed
    after it, None if there was none (censored) or it was never healed. `whole_ms`: from healing
    until the target was clean, running and caught up."""

    id: str
    kind: str
    target: str
    applied: bool
    observed: bool
    healed: bool
    recovery_ms: float | None
    whole_ms: float | None = None


class AttackResult(msgspec.Struct, frozen=True, kw_only=True):
    """One attack. `trials` were sent, `observed` of them seen to arrive, `distinct` of these
    differ.

    `successes` is what the independent checker found in the ledgers; `upper95` bounds the success
    rate, over distinct observed trials only: repeating a deterministic refusal proves nothing.
    `verdict`: "broken" if any trial succeeded, "held" if none did and `upper95` is within what
    the campaign asks, else "invalid" ("degraded" is for comparisons with a baseline):
    too little was seen to arrive. `refused` counts what the system said, as "layer:reason".
    """

    id: str
    kind: str
    trials: int
    observed: int
    distinct: int
    successes: int
    upper95: float | None
    verdict: AttackVerdict
    refused: dict[str, int] = {}


class PropertyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One expectation of the campaign, with what was found in words."""

    name: str
    held: bool
    detail: str = ""


class LatencyTable(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds. `admission` and `data`: intended send to verified receipt, at the device;
    `consensus`: proposal to execution, at the primary, one monotonic clock each."""

    admission: Latency
    consensus: Latency
    data: Latency


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Data operations that were intended in some phases.

    Quantiles are over all `sent`, one that was never answered being slower than all others: null
    if the quantile is such a one, which took longer than `timeout_ms`.
    """

    phases: tuple[str, ...]
    sent: int
    answered: int
    goodput_per_s: float
    timeout_ms: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


class LoadTable(msgspec.Struct, frozen=True, kw_only=True):
    """`struck`: the phases in which the campaign injects, also in a run that is a baseline;
    `baseline`: the phase of this name. Null if there are none."""

    whole: Load
    struck: Load | None = None
    baseline: Load | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run, `index` of its campaign; `arm` says whether it had faults and attacks at all.

    `verdict` is "failed" if a property did not hold or an attack was broken; else "invalid" if
    the run was cut short, a ledger or a device's log was not collected, an injection (fault or
    attack) was not seen to take effect, or a host was not fit (`testbed.checks.conditions`): then
    nothing can be said; else "passed".
    """

    schema: Literal["testbed.summary/1"] = "testbed.summary/1"
    run: str
    campaign: str
    verdict: Verdict
    stage: Literal["loopback", "emulated", "lab", "simulation"]
    seed: int
    replicas: int
    f: int
    devices_admitted: int
    devices_expected: int
    blocks: int
    records: int
    data_records: int
    blocks_proven: int
    ledger_verified: bool
    ledger_problem: str | None = None
    view_changes: int
    latency_ms: LatencyTable
    load: LoadTable | None = None
    index: int = 0
    trial: int = 0
    arm: Literal["baseline", "faults"] = "faults"
    faults: tuple[FaultResult, ...] = ()
    attacks: tuple[AttackResult, ...] = ()
    properties: tuple[PropertyResult, ...] = ()
    notes: tuple[str, ...] = ()
