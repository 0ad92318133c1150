"""One row per fault and attack of a campaign, in the columns by which campaigns are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise

from testbed.campaign.expect import FIRST_COMMIT
from testbed.checks.evidence import Evidence
from testbed.checks.faults import InjectionResult, injections
from testbed.checks.logs import BlockDone
from testbed.checks.stats import interval95
from testbed.grouped import grouped
from testbed.manifest import Manifest
from testbed.printed import shell_line
from testbed.report.columns import Cell, Table
from testbed.report.measure import Operation, load_of
from testbed.report.summary import RunSummary, worst_ms

__all__ = ["RESULT_COLUMNS", "replay_command", "results"]


def replay_command(manifest: Manifest, only: int | None = None) -> str:
    """The command that runs the same schedule again, or `only` one run of it."""
    argv = list(manifest.argv)
    if not any(each.startswith("--seed") for each in argv):
        argv += ["--seed", str(manifest.seed)]
    if only is not None and not any(each.startswith("--only") for each in argv):
        argv += ["--only", str(only)]
    return shell_line(argv)


RESULT_COLUMNS = {
    "run": "s",
    "campaign": "s",
    "schedule_sha256": "s",
    "seed": "i",
    "commit": "s",
    "stage": "s",
    "n": "i",
    "f": "i",
    "layer": "s",
    "attack": "s",
    "kind": "s",
    "mechanism": "s",
    "parameters": "s",
    "injected": "i",
    "observed": "i",
    "trials": "i",
    "distinct": "i",
    "successes": "i",
    "ci_lo": "f",
    "ci_hi": "f",
    "refused_by": "s",
    "safety": "b",
    "liveness": "b",
    "verdict": "s",
    "goodput_base_per_s": "f",
    "goodput_attack_per_s": "f",
    "p50_base_ms": "f",
    "p50_attack_ms": "f",
    "p99_base_ms": "f",
    "p99_attack_ms": "f",
    "max_base_ms": "f",
    "max_attack_ms": "f",
    "unavailable_s": "f",
    "first_commit_s": "f",
    "recovery_s": "f",
    "censored": "i",
    "view_changes": "i",
    "heal_ok": "b",
    "replay": "s",
}


def results(evidence: Evidence, summary: RunSummary, found: Sequence[Operation]) -> Table:
    """One row per injection. `base` is the phase `baseline` of the same run; `attack` is the phase
    of the injection."""
    found_rows = _result_rows(evidence, summary, found)
    rows = [tuple(row.get(name) for name in RESULT_COLUMNS) for row in found_rows]
    return Table(name="results", columns=RESULT_COLUMNS, rows=rows)


def _result_rows(
    evidence: Evidence, summary: RunSummary, found: Sequence[Operation]
) -> Iterator[dict[str, Cell]]:
    held = {each.name: each.held for each in summary.properties}
    judged = {each.held for each in summary.properties if each.weight == "safety"}
    safety = None if None in judged and False not in judged else False not in judged
    commit = evidence.manifest.git.get("commit")
    common: dict[str, Cell] = {
        "run": f"{evidence.manifest.run}/{evidence.run.entry.path}",
        "campaign": evidence.manifest.campaign,
        "schedule_sha256": evidence.manifest.schedule_sha256,
        "seed": evidence.manifest.seed,
        "commit": None if commit is None else str(commit),
        "stage": evidence.manifest.stage,
        "n": len(evidence.schedule.replicas),
        "f": evidence.schedule.f,
        "safety": safety,
        "liveness": held.get(FIRST_COMMIT),
        "censored": summary.latency_ms.data.censored + summary.latency_ms.admission.censored,
        "view_changes": summary.view_changes,
        "replay": replay_command(evidence.manifest, evidence.run.entry.index),
    }
    steps = {each.id: each for each in injections(evidence)}
    for events in grouped(evidence.trial.events, lambda each: each.fault).values():
        first = events[0]
        row = common | {
            "layer": first.layer,
            "attack": first.fault,
            "kind": first.kind,
            "mechanism": first.mechanism,
            "parameters": json.dumps(first.params, sort_keys=True),
            "injected": len(events),
        }
        row |= _loads(evidence, found, first.phase)
        row["unavailable_s"] = _unavailable_s(evidence, first.phase)
        if first.skipped is not None:
            row["verdict"] = "skipped"
        elif first.category == "attack":
            row |= _attack_cells(summary, first.fault)
        else:
            row |= _fault_cells([steps[event.id] for event in events], safety)
        yield row


def _loads(evidence: Evidence, found: Sequence[Operation], phase: str) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for side, name in (("base", "baseline"), ("attack", phase)):
        span = next((each for each in evidence.schedule.phases if each.name == name), None)
        if span is not None:
            load = load_of(found, [span], evidence.schedule.workload.timeout_ms)
            cells[f"goodput_{side}_per_s"] = load.goodput_per_s
            for quantile in ("p50", "p99", "max"):
                cells[f"{quantile}_{side}_ms"] = getattr(load, f"{quantile}_ms")
    return cells


def _attack_cells(summary: RunSummary, attack: str) -> dict[str, Cell]:
    judged = next(each for each in summary.attacks if each.id == attack)
    interval = interval95(judged.successes, judged.distinct)
    return {
        "observed": judged.observed,
        "trials": judged.trials,
        "distinct": judged.distinct,
        "successes": judged.successes,
        "ci_lo": None if interval is None else interval[0],
        "ci_hi": None if interval is None else interval[1],
        "refused_by": json.dumps(judged.refused, sort_keys=True),
        "verdict": judged.verdict,
    }


def _fault_cells(steps: Sequence[InjectionResult], safety: bool | None) -> dict[str, Cell]:
    return {
        "observed": sum(each.observed for each in steps),
        "first_commit_s": _worst_s([each.recovery_ms for each in steps]),
        "recovery_s": _worst_s([each.whole_ms for each in steps]),
        "heal_ok": all(each.whole_ms is not None for each in steps),
        "verdict": _fault_verdict(steps, safety),
    }


def _worst_s(times_ms: Sequence[float | None]) -> float | None:
    return None if (worst := worst_ms(times_ms)) is None else worst / 1000


def _unavailable_s(evidence: Evidence, phase: str) -> float | None:
    """The longest time within a phase in which no replica executed a request."""
    span = next((each for each in evidence.schedule.phases if each.name == phase), None)
    if span is None or not evidence.completed:
        return None
    done = sorted(evidence.at_ms(e.t) for e in evidence.events(BlockDone) if e.count)
    within = [at_ms for at_ms in done if span.start_ms <= at_ms <= span.end_ms]
    marks = [span.start_ms, *within, span.end_ms]
    return round(max(b - a for a, b in pairwise(marks)) / 1000, 6)


def _fault_verdict(steps: Sequence[InjectionResult], safety: bool | None) -> str:
    """Safety under the fault, and progress after it."""
    if safety is False:
        return "broken"
    if safety is None or not all(each.took_place and each.healed_ms is not None for each in steps):
        return "invalid"
    return "held" if all(each.recovery is not None for each in steps) else "degraded"
