"""The derived tables of a run: blocks, executions, operations, phases and faults.

Columns and units are told in README.md. Times `*_at_ms` count from the start of the schedule.
One row per injection, in the columns that campaigns are compared by, is in `results`.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.checks.evidence import Evidence
from testbed.checks.faults import injections
from testbed.checks.logs import BlockDone
from testbed.report.columns import Table
from testbed.report.measure import Operation, consensus_ms, of_kind, operations
from testbed.report.results import results
from testbed.report.summary import Summary

__all__ = ["tables"]


def tables(evidence: Evidence, summary: Summary) -> tuple[Table, ...]:
    """blocks, executions, operations, phases, faults, results."""
    found = operations(evidence)
    return (
        _blocks(evidence),
        _executions(evidence),
        _operations(found),
        _phases(evidence, found),
        _faults(evidence),
        results(evidence, summary, found),
    )


def _blocks(evidence: Evidence) -> Table:
    took_ms = consensus_ms(evidence)
    proposers = {
        event.height: event.node
        for event in evidence.events(BlockDone)
        if event.proposed_us is not None
    }
    rows = [
        (
            stored.height,
            stored.hash.hex(),
            stored.head.time_us,
            round(evidence.at_ms(stored.head.time_us * 1000), 3),
            stored.head.epoch,
            stored.head.view,
            stored.records,
            proposers.get(stored.height),
            took_ms.get(stored.height),
        )
        for stored in evidence.longest.heads
    ]
    columns = {
        "height": "i",
        "hash": "s",
        "time_us": "u",
        "at_ms": "f",
        "epoch": "i",
        "view": "i",
        "records": "i",
        "proposer": "s",
        "consensus_ms": "f",
    }
    return Table(name="blocks", columns=columns, rows=rows)


def _executions(evidence: Evidence) -> Table:
    """One row per block and replica: when it was executed, and how far each phase took it."""
    rows = [
        (
            event.node,
            event.height,
            round(evidence.at_ms(event.t), 3),
            event.proposed_us is not None,
            event.prepared_us,
            event.committed_us,
            event.executed_us,
        )
        for event in evidence.events(BlockDone)
    ]
    columns = {
        "replica": "s",
        "height": "i",
        "executed_at_ms": "f",
        "proposed": "b",
        "prepared_us": "i",
        "committed_us": "i",
        "executed_us": "i",
    }
    return Table(name="executions", columns=columns, rows=rows)


def _operations(found: Sequence[Operation]) -> Table:
    rows = [
        (
            each.node,
            each.kind,
            each.source,
            each.request,
            each.intended_ms,
            each.phase,
            each.latency_ms,
            each.latency_ms is None,
            each.height,
        )
        for each in found
    ]
    columns = {
        "device": "s",
        "kind": "s",
        "board": "s",
        "request": "s",
        "intended_at_ms": "f",
        "phase": "s",
        "latency_ms": "f",
        "censored": "b",
        "height": "i",
    }
    return Table(name="operations", columns=columns, rows=rows)


def _phases(evidence: Evidence, found: Sequence[Operation]) -> Table:
    rows = []
    for phase in evidence.schedule.phases:
        data = of_kind(found, "data", phase.name)
        heads = [
            stored
            for stored in evidence.longest.heads
            if phase.start_ms <= evidence.at_ms(stored.head.time_us * 1000) < phase.end_ms
        ]
        rows.append(
            (
                phase.name,
                phase.start_ms,
                phase.end_ms,
                len(heads),
                sum(stored.records for stored in heads),
                data.n + data.censored,
                data.censored,
                data.n / (phase.end_ms - phase.start_ms) * 1000,
                data.p50,
                data.p90,
                data.p99,
                data.max,
            )
        )
    columns = {
        "phase": "s",
        "start_ms": "i",
        "end_ms": "i",
        "blocks": "i",
        "records": "i",
        "data_sent": "i",
        "data_censored": "i",
        "goodput_per_s": "f",
        "data_p50_ms": "f",
        "data_p90_ms": "f",
        "data_p99_ms": "f",
        "data_max_ms": "f",
    }
    return Table(name="phases", columns=columns, rows=rows)


def _faults(evidence: Evidence) -> Table:
    rows = [
        (
            each.id,
            each.fault,
            each.kind,
            each.target,
            each.planned_ms,
            each.applied_ms,
            each.observed,
            each.healed_ms,
            each.recovery_ms,
            each.whole_ms,
        )
        for each in injections(evidence)
    ]
    columns = {
        "event": "s",
        "fault": "s",
        "kind": "s",
        "target": "s",
        "planned_at_ms": "f",
        "applied_at_ms": "f",
        "observed": "b",
        "healed_at_ms": "f",
        "recovery_ms": "f",
        "whole_ms": "f",
    }
    return Table(name="faults", columns=columns, rows=rows)
