"""Latencies of a run, from events of devices and replicas. Each latency is measured with one clock,
and none is dropped. The load is open-loop: an operation's latency counts from its intended time,
even if the previous operation was late. A late answer has its true latency; an operation without an
answer is censored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil, inf, isinf
from typing import NamedTuple

import msgspec

from testbed.campaign.schedule import Phase
from testbed.checks.evidence import Evidence
from testbed.checks.logs import BlockDone, DataAdded, DeviceAdmitted, Late
from testbed.checks.stats import Latency, latency
from testbed.report.summary import LatencyTable, Load, LoadTable

__all__ = [
    "Operation",
    "consensus_ms",
    "latency_table",
    "load_of",
    "load_table",
    "of_kind",
    "operations",
]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One admission or reading of a device. `latency_ms` is None if it was never answered.

    `intended_ms` counts from the start of the schedule; `source` is the board of a reading.
    """

    node: str
    kind: str
    source: str | None
    request: str | None
    intended_ms: float
    phase: str | None
    latency_ms: float | None
    height: int | None


class _Asked(NamedTuple):
    node: str
    kind: str
    source: str | None
    intended_ns: int


def operations(evidence: Evidence) -> tuple[Operation, ...]:
    """All operations of devices, in the order of intended times."""
    answered: list[tuple[_Asked, DeviceAdmitted | DataAdded]] = []
    for admitted in evidence.events(DeviceAdmitted):
        sent_ns = admitted.t - round(admitted.latency_ms * 1e6)
        answered.append((_Asked(admitted.node, "admission", None, sent_ns), admitted))
    for added in evidence.events(DataAdded):
        answered.append((_Asked(added.node, "data", added.source, added.intended_ns), added))
    known = {asked for asked, _ in answered}
    unanswered = [each for each in dict.fromkeys(_to_be_asked(evidence)) if each not in known]
    heights = {
        entry.statement.request.hex(): entry.height
        for entry in evidence.longest.entries
        if entry.took_effect
    }

    def operation(asked: _Asked, answer: DeviceAdmitted | DataAdded | None = None) -> Operation:
        phase = evidence.phase_at(asked.intended_ns)
        return Operation(
            node=asked.node,
            kind=asked.kind,
            source=asked.source,
            request=answer.id if answer else None,
            intended_ms=round(evidence.at_ms(asked.intended_ns), 3),
            phase=phase.name if phase else None,
            latency_ms=round(max(0.0, answer.latency_ms), 3) if answer else None,
            height=heights.get(answer.id) if answer else None,
        )

    found = [operation(asked, answer) for asked, answer in answered]
    found += map(operation, unanswered)
    return tuple(sorted(found, key=lambda each: (each.intended_ms, each.node)))


def _to_be_asked(evidence: Evidence) -> Iterator[_Asked]:
    """Readings that devices logged as late. Then the readings of their plans, and admissions that
    never came: a device logs nothing while it or its machine is down. (Boards have no plan.)"""
    for late in evidence.events(Late):
        yield _Asked(late.node, "data", late.source, late.intended_ns)
    start_ns = evidence.start_ns
    if start_ns is None:
        return
    admitted = {event.node for event in evidence.events(DeviceAdmitted)}
    sends = evidence.completed and evidence.schedule.workload.kind != "enrol"
    for device in evidence.trial.devices:
        if sends and device.role != "board":
            for at_ms in chain.from_iterable(device.sends_ms.values()):
                yield _Asked(device.name, "data", None, start_ns + at_ms * 1_000_000)
        if device.enrol_at_ms is not None and device.name not in admitted:
            yield _Asked(device.name, "admission", None, start_ns + device.enrol_at_ms * 1_000_000)


def consensus_ms(evidence: Evidence) -> dict[int, float]:
    """By height, the time from proposal to execution at the replica that proposed the block, on its
    monotonic clock. Blocks without requests are left out, and those of which a lying replica says
    that it executed them before."""
    return {
        event.height: (event.executed_us - event.proposed_us) / 1000
        for event in evidence.events(BlockDone)
        if event.count > 0
        and event.proposed_us is not None
        and event.proposed_us <= event.executed_us
    }


def latency_table(evidence: Evidence, found: Sequence[Operation]) -> LatencyTable:
    return LatencyTable(
        admission=of_kind(found, "admission"),
        consensus=latency(sorted(consensus_ms(evidence).values())),
        data=of_kind(found, "data"),
    )


def of_kind(found: Sequence[Operation], kind: str, phase: str | None = None) -> Latency:
    """Quantiles of one kind; with `phase`, of the operations that were intended in it."""
    wanted = [each for each in found if each.kind == kind and phase in (None, each.phase)]
    answered = [each.latency_ms for each in wanted if each.latency_ms is not None]
    return latency(answered, censored=len(wanted) - len(answered))


def load_table(evidence: Evidence, found: Sequence[Operation]) -> LoadTable:
    phases = evidence.schedule.phases
    timeout_ms = evidence.schedule.workload.timeout_ms
    struck = evidence.schedule.struck
    named = [phase for phase in phases if phase.name == "baseline"]
    return LoadTable(
        whole=load_of(found, phases, timeout_ms),
        struck=load_of(found, struck, timeout_ms) if struck else None,
        baseline=load_of(found, named, timeout_ms) if named else None,
    )


def load_of(found: Sequence[Operation], phases: Sequence[Phase], timeout_ms: int) -> Load:
    """The data operations that were intended in `phases`. Quantiles are over all that were sent."""
    names = tuple(phase.name for phase in phases)
    span_ms = sum(phase.end_ms - phase.start_ms for phase in phases)
    wanted = [each for each in found if each.kind == "data" and each.phase in names]
    took_ms = sorted(inf if each.latency_ms is None else each.latency_ms for each in wanted)
    answered = sum(not isinf(each) for each in took_ms)

    def quantile(share: float) -> float | None:
        if not took_ms or isinf(value := took_ms[ceil(share * len(took_ms)) - 1]):
            return None
        return value

    return Load(
        phases=names,
        sent=len(wanted),
        answered=answered,
        goodput_per_s=round(answered / span_ms * 1000, 6),
        timeout_ms=timeout_ms,
        p50_ms=quantile(0.5),
        p99_ms=quantile(0.99),
        max_ms=quantile(1.0),
    )
