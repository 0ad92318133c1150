"""`summary.json`: the stable, documented, machine-read face of a run (schema testbed.summary/1).

Fields are only ever added within a schema version. `verdict` is "passed" when every property
that the campaign expects held and every injection was seen to take effect, "failed" when one
did not hold, "invalid" when something was not observed and so nothing can be said.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from testbed.report.stats import Latency

__all__ = ["AttackResult", "FaultResult", "LatencyTable", "PropertyResult", "Summary"]

Verdict = Literal["passed", "failed", "invalid"]
AttackVerdict = Literal["held", "broken", "degraded", "invalid"]


class FaultResult(msgspec.Struct, frozen=True, kw_only=True):
    """One injected fault. `recovery_ms`: from healing to the first block that was proposed after
    it, None if there was none (censored) or it was never healed."""

    id: str
    kind: str
    target: str
    applied: bool
    observed: bool
    healed: bool
    recovery_ms: float | None


class AttackResult(msgspec.Struct, frozen=True, kw_only=True):
    """One attack. `trials` were sent, `observed` of them seen to arrive, `distinct` differ.

    `successes` is what the independent checker found in the ledgers; `upper95` bounds the success
    rate. `refused` counts by layer and reason what the system said.
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


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

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
    ledger_verified: bool
    ledger_problem: str | None = None
    view_changes: int
    latency_ms: LatencyTable
    faults: tuple[FaultResult, ...] = ()
    attacks: tuple[AttackResult, ...] = ()
    properties: tuple[PropertyResult, ...] = ()
    notes: tuple[str, ...] = ()
