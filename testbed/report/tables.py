"""The derived tables. One run has blocks, executions, operations, hops, phases, faults and results;
a bundle has runs and results.

README.md explains columns and units. Times `*_at_ms` count from the start of the schedule. The
columns of `results` are in `results`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from testbed.bundle import Bundle, RunFolder
from testbed.campaign.schedule import Phase
from testbed.checks.evidence import Evidence
from testbed.checks.faults import injections
from testbed.checks.logs import BlockDone
from testbed.report.columns import Cell, Table, read_table, table
from testbed.report.figures import admission_ms
from testbed.report.machines import Machines, machines_tables
from testbed.report.measure import Operation, consensus_ms, of_kind
from testbed.report.results import RESULT_COLUMNS, results
from testbed.report.summary import Load, RunRow, RunSummary, Summary
from testbed.report.where import Where, where_tables

__all__ = ["run_tables", "tables"]


def run_tables(
    evidence: Evidence,
    summary: RunSummary,
    found: Sequence[Operation],
    where: Where,
    machines: Machines,
) -> tuple[Table, ...]:
    """The tables of one run. `found` are its operations."""
    return (
        *where_tables(where),
        *machines_tables(machines),
        _blocks(evidence),
        _executions(evidence),
        _operations(found),
        _phases(evidence, found),
        _faults(evidence),
        results(evidence, summary, found),
    )


def tables(bundle: Bundle, summary: Summary) -> tuple[Table, ...]:
    """Of all runs. Reads derived/results.parquet of each run that counts."""
    rows = list(_results(bundle, summary))
    columns = {"index": "i", "trial": "i", "arm": "s", **RESULT_COLUMNS}
    return _runs(summary), Table(name="results", columns=columns, rows=rows)


def _blocks(evidence: Evidence) -> Table:
    took_ms = consensus_ms(evidence)
    proposers = {
        event.height: event.node
        for event in evidence.events(BlockDone)
        if event.proposed_us is not None
    }
    return table(
        "blocks",
        evidence.longest.heads,
        {
            "height": ("i", lambda stored: stored.height),
            "hash": ("s", lambda stored: stored.hash.hex()),
            "time_us": ("u", lambda stored: stored.head.time_us),
            "at_ms": ("f", lambda stored: round(evidence.at_ms(stored.head.time_us * 1000), 3)),
            "epoch": ("i", lambda stored: stored.head.epoch),
            "view": ("i", lambda stored: stored.head.view),
            "records": ("i", lambda stored: stored.records),
            "proposer": ("s", lambda stored: proposers.get(stored.height)),
            "consensus_ms": ("f", lambda stored: took_ms.get(stored.height)),
        },
    )


def _executions(evidence: Evidence) -> Table:
    """One row per block and replica: when it was executed, and the time until the end of each
    phase."""
    return table(
        "executions",
        evidence.events(BlockDone),
        {
            "replica": ("s", lambda event: event.node),
            "height": ("i", lambda event: event.height),
            "executed_at_ms": ("f", lambda event: round(evidence.at_ms(event.t), 3)),
            "proposed": ("b", lambda event: event.proposed_us is not None),
            "prepared_us": ("i", lambda event: event.prepared_us),
            "committed_us": ("i", lambda event: event.committed_us),
            "executed_us": ("i", lambda event: event.executed_us),
        },
    )


def _operations(found: Sequence[Operation]) -> Table:
    return table(
        "operations",
        found,
        {
            "device": ("s", lambda each: each.node),
            "kind": ("s", lambda each: each.kind),
            "board": ("s", lambda each: each.source),
            "request": ("s", lambda each: each.request),
            "intended_at_ms": ("f", lambda each: each.intended_ms),
            "phase": ("s", lambda each: each.phase),
            "latency_ms": ("f", lambda each: each.latency_ms),
            "censored": ("b", lambda each: each.latency_ms is None),
            "height": ("i", lambda each: each.height),
        },
    )


def _phases(evidence: Evidence, found: Sequence[Operation]) -> Table:
    heads = {
        phase.name: [
            stored
            for stored in evidence.longest.heads
            if phase.start_ms <= evidence.at_ms(stored.head.time_us * 1000) < phase.end_ms
        ]
        for phase in evidence.schedule.phases
    }
    data = {phase.name: of_kind(found, "data", phase.name) for phase in evidence.schedule.phases}

    def goodput(phase: Phase) -> float:
        return data[phase.name].n / (phase.end_ms - phase.start_ms) * 1000

    return table(
        "phases",
        evidence.schedule.phases,
        {
            "phase": ("s", lambda phase: phase.name),
            "start_ms": ("i", lambda phase: phase.start_ms),
            "end_ms": ("i", lambda phase: phase.end_ms),
            "blocks": ("i", lambda phase: len(heads[phase.name])),
            "records": ("i", lambda phase: sum(head.records for head in heads[phase.name])),
            "data_sent": ("i", lambda phase: data[phase.name].n + data[phase.name].censored),
            "data_censored": ("i", lambda phase: data[phase.name].censored),
            "goodput_per_s": ("f", goodput),
            "data_p50_ms": ("f", lambda phase: data[phase.name].p50),
            "data_p90_ms": ("f", lambda phase: data[phase.name].p90),
            "data_p99_ms": ("f", lambda phase: data[phase.name].p99),
            "data_max_ms": ("f", lambda phase: data[phase.name].max),
        },
    )


def _faults(evidence: Evidence) -> Table:
    return table(
        "faults",
        injections(evidence),
        {
            "event": ("s", lambda each: each.id),
            "fault": ("s", lambda each: each.fault),
            "kind": ("s", lambda each: each.kind),
            "target": ("s", lambda each: each.target),
            "planned_at_ms": ("f", lambda each: each.planned_ms),
            "applied_at_ms": ("f", lambda each: each.applied_ms),
            "observed": ("b", lambda each: each.observed),
            "healed_at_ms": ("f", lambda each: each.healed_ms),
            "recovery_ms": ("f", lambda each: each.recovery_ms),
            "recovery_bound_ms": ("f", lambda each: each.recovery_bound_ms),
            "recovery_state": ("s", lambda each: each.recovery_state),
            "whole_ms": ("f", lambda each: each.whole_ms),
        },
    )


def _runs(summary: Summary) -> Table:
    """A row for every run. Only runs that count have figures."""

    def of_run(value: Callable[[RunSummary], Cell]) -> Callable[[RunRow], Cell]:
        return lambda row: value(row.result) if row.counted else None

    def of_load(value: Callable[[Load], Cell]) -> Callable[[RunRow], Cell]:
        return of_run(lambda run: value(run.load.judged))

    def admission(run: RunSummary) -> Cell:
        """The median admission. It is not known exactly if some device was never admitted."""
        ms = admission_ms(run)
        return None if ms is None or ms.censored else ms.lo

    return table(
        "runs",
        summary.runs,
        {
            "index": ("i", lambda row: row.index),
            "trial": ("i", lambda row: row.trial),
            "arm": ("s", lambda row: row.arm),
            "path": ("s", lambda row: row.path),
            "state": ("s", lambda row: row.state),
            "verdict": ("s", lambda row: row.summary.verdict if row.summary else None),
            "counted": ("b", lambda row: row.counted),
            "reason": ("s", lambda row: row.reason),
            "attempts": ("i", lambda row: len(row.attempts)),
            "blocks": ("i", of_run(lambda run: run.blocks)),
            "records": ("i", of_run(lambda run: run.records)),
            "view_changes": ("i", of_run(lambda run: run.view_changes)),
            "sent": ("i", of_load(lambda load: load.sent)),
            "censored": ("i", of_load(lambda load: load.sent - load.answered)),
            "goodput_per_s": ("f", of_load(lambda load: load.goodput_per_s)),
            "p50_ms": ("f", of_load(lambda load: load.p50_ms)),
            "p99_ms": ("f", of_load(lambda load: load.p99_ms)),
            "max_ms": ("f", of_load(lambda load: load.max_ms)),
            "admission_p50_ms": ("f", of_run(admission)),
            "consensus_p50_ms": ("f", of_run(lambda run: run.latency_ms.consensus.p50)),
            "recovery_ms": ("f", of_run(lambda run: run.recovery_ms)),
        },
    )


def _results(bundle: Bundle, summary: Summary) -> Iterator[tuple[Cell, ...]]:
    """The rows of the runs that count. If a trial has a baseline run, that run is the `base`."""
    folders: dict[int, RunFolder] = {run.entry.index: run for run in bundle.runs}
    counted = [row for row in summary.runs if row.counted]
    bases = {row.trial: row.result for row in counted if row.arm == "baseline"}
    for row in counted:
        for found in read_table(folders[row.index], "results"):
            if (base := bases.get(row.trial)) is not None:
                load = base.load.judged
                found |= {
                    "goodput_base_per_s": load.goodput_per_s,
                    "p50_base_ms": load.p50_ms,
                    "p99_base_ms": load.p99_ms,
                    "max_base_ms": load.max_ms,
                }
            values = (found.get(name) for name in RESULT_COLUMNS)
            yield (row.index, row.trial, row.arm, *values)
