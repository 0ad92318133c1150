"""Makes the summary of a campaign from the summaries of its runs.

It reads the files that `derive` left in each run's directory, and no raw files. Runs that do not
count (not made, failed, invalid) are listed with their reason and are in no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from testbed.bundle import Bundle, RunFolder
from testbed.campaign.expect import Expect
from testbed.checks.evidence import schedule_of
from testbed.checks.stats import Latency, upper95
from testbed.errors import ConfigurationError
from testbed.grouped import grouped
from testbed.manifest import Manifest
from testbed.report.claims import claims
from testbed.report.figures import bounds_on_ratios, figures
from testbed.report.pairing import Estimate, Known, between, known, median
from testbed.report.summary import (
    AttackResult,
    AttackVerdict,
    Counts,
    FaultOverRuns,
    LatencyTable,
    PropertyResult,
    RunRow,
    RunSummary,
    SkippedResult,
    Summary,
    Verdict,
)

__all__ = ["over_runs", "read_run_summary"]


def over_runs(bundle: Bundle) -> Summary:
    """The summary of a campaign. Raises ConfigurationError."""
    manifest = bundle.manifest
    schedule = schedule_of(bundle)
    expect = schedule.expect
    rows = tuple(map(_row, bundle.runs))
    judged = _summaries(rows)
    counted = [row for row in rows if row.counted]
    shown = figures(counted)
    attacks = tuple(_attacks(_summaries(counted), expect))
    properties = (*_properties(counted), *bounds_on_ratios(expect.degradation, shown))
    faults = tuple(_faults(_summaries(counted)))
    skipped = tuple(dict.fromkeys(each for run in judged for each in run.skipped))
    altered = bundle.altered(manifest)
    amiss = [each for each in skipped if each.id.partition(".")[0] not in expect.may_skip]
    verdict = _verdict(rows, attacks, properties, amiss)
    unverified = [row for row in rows if row.summary and not row.summary.ledger_verified]

    def total(of: Callable[[RunSummary], int]) -> int:
        return sum(map(of, judged))

    return Summary(
        run=manifest.run,
        campaign=manifest.campaign,
        verdict="invalid" if altered and verdict != "failed" else verdict,
        stage=manifest.stage,
        seed=manifest.seed,
        schedule_sha256=manifest.schedule_sha256,
        commit=None if manifest.git.get("commit") is None else str(manifest.git["commit"]),
        replicas=len(schedule.replicas),
        f=schedule.f,
        counts=_counts(manifest, rows),
        devices_admitted=total(lambda run: run.devices_admitted),
        devices_expected=total(lambda run: run.devices_expected),
        blocks=total(lambda run: run.blocks),
        blocks_proven=total(lambda run: run.blocks_proven),
        records=total(lambda run: run.records),
        data_records=total(lambda run: run.data_records),
        ledger_verified=bool(judged) and not unverified,
        ledger_problem=_problem(rows, unverified),
        view_changes=total(lambda run: run.view_changes),
        latency_ms=_latencies([row for row in counted if row.arm == "faults"]),
        figures=shown,
        attacks=attacks,
        faults=faults,
        properties=properties,
        skipped=skipped,
        claims=tuple(claims(expect.claims, attacks, faults, properties, skipped)),
        runs=rows,
        notes=(
            *(f"{name} is not what these runs were made from" for name in altered),
            *_notes(manifest, rows, attacks),
        ),
    )


def _summaries(rows: Iterable[RunRow]) -> list[RunSummary]:
    return [row.summary for row in rows if row.summary is not None]


def _row(run: RunFolder) -> RunRow:
    entry = run.entry
    judged = entry.complete or (run.was_collected and run.is_derived)
    summary = read_run_summary(run) if judged else None
    # A report can be made again, so a run may be invalid by its raw files and not only by the
    # manifest.
    state, reason = entry.state, entry.reason
    if entry.complete and summary is not None and summary.verdict == "invalid":
        state, reason = "invalid", reason or "; ".join(summary.notes)
    if state == "running":
        reason = "cut off, or still running"
    return RunRow(
        index=entry.index,
        trial=entry.trial,
        arm=entry.arm,
        path=entry.path,
        state=state,
        reason=reason,
        attempts=entry.attempts,
        summary=summary,
    )


def read_run_summary(run: RunFolder) -> RunSummary:
    """What `derive_run` wrote. Raises ConfigurationError."""
    if not (run.path / "summary.json").exists():
        raise ConfigurationError(
            f"{run.path} has no summary yet: testbed report {run.bundle.typed} makes it"
        )
    try:
        return msgspec.convert(run.read_json("summary.json"), type=RunSummary)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{run.path}/summary.json: {error}; testbed report {run.bundle.typed} makes it again"
        ) from error


def _counts(manifest: Manifest, rows: Sequence[RunRow]) -> Counts:
    states = Counter(row.state for row in rows)
    return Counts(
        planned=len(rows),
        done=states["done"],
        invalid=states["invalid"],
        failed=states["failed"],
        missing=states["planned"] + states["running"],
        counted=sum(row.counted for row in rows),
        attempts=sum(len(entry.attempts) for entry in manifest.runs),
    )


def _problem(rows: Sequence[RunRow], unverified: Sequence[RunRow]) -> str | None:
    """The first ledger that does not verify, with its run."""
    if not unverified:
        return None if any(row.summary for row in rows) else "no run was judged"
    first = unverified[0]
    problem = first.result.ledger_problem
    return problem if len(rows) == 1 else f"run {first.index}: {problem}"


def _latencies(rows: Sequence[RunRow]) -> LatencyTable:
    def pooled(name: str) -> Latency:
        found: list[Latency] = [getattr(run.latency_ms, name) for run in _summaries(rows)]

        def middle(quantile: str) -> float | None:
            values = [known(v) for each in found if (v := getattr(each, quantile)) is not None]
            return median(values).value

        return Latency(
            n=sum(each.n for each in found),
            p50=middle("p50"),
            p90=middle("p90"),
            p99=middle("p99"),
            max=max((each.max for each in found if each.max is not None), default=None),
            censored=sum(each.censored for each in found),
        )

    return LatencyTable(
        admission=pooled("admission"), consensus=pooled("consensus"), data=pooled("data")
    )


def _attacks(counted: Sequence[RunSummary], expect: Expect) -> Iterator[AttackResult]:
    """Every run has its own keys and network, so trials that are distinct in one run are distinct
    overall."""
    every = (attack for summary in counted for attack in summary.attacks)
    for name, found in grouped(every, lambda attack: attack.id).items():
        successes = sum(each.successes for each in found)
        distinct = sum(each.distinct for each in found)
        bound = upper95(successes, distinct)
        wanted = expect.attack.get(name)
        allowed = None if wanted is None else wanted.succeeded_upper95
        refused: Counter[str] = Counter()
        for each in found:
            refused.update(each.refused)
        yield AttackResult(
            id=name,
            kind=found[0].kind,
            runs=len(found),
            trials=sum(each.trials for each in found),
            observed=sum(each.observed for each in found),
            distinct=distinct,
            successes=successes,
            upper95=bound,
            allowed=allowed,
            expected=found[0].expected,
            details=_sums(each.details for each in found),
            verdict=_attack_verdict(successes, bound, allowed),
            refused=dict(sorted(refused.items())),
        )


def _sums(found: Iterable[dict[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for each in found:
        total.update(each)
    return dict(total)


def _attack_verdict(successes: int, bound: float | None, allowed: float | None) -> AttackVerdict:
    if successes:
        return "broken"
    return "held" if bound is not None and (allowed is None or bound <= allowed) else "invalid"


def _faults(counted: Sequence[RunSummary]) -> Iterator[FaultOverRuns]:
    """A repeated fault (`every`) has one event per repetition. Here they are one fault."""
    by_run = [
        grouped(run.faults, lambda fault: (fault.id.partition(".")[0], fault.kind))
        for run in counted
    ]
    for name, kind in dict.fromkeys(key for groups in by_run for key in groups):
        runs = [groups[name, kind] for groups in by_run if (name, kind) in groups]
        every = [fault for run in runs for fault in run]
        yield FaultOverRuns(
            id=name,
            kind=kind,
            targets=tuple(sorted({fault.target for fault in every})),
            runs=len(runs),
            injected=len(every),
            applied=sum(fault.applied for fault in every),
            observed=sum(fault.observed for fault in every),
            healed=sum(fault.healed for fault in every),
            recovery_ms=_worst([[fault.recovery_ms for fault in run] for run in runs]),
            whole_ms=_worst([[fault.whole_ms for fault in run] for run in runs]),
        )


def _worst(runs: Sequence[Sequence[float | None]]) -> Estimate:
    """Statistics over the largest value of each run. None (it never happened) is larger than all
    values."""
    bounds = [[between(0.0) if ms is None else known(ms) for ms in run] for run in runs]
    return median([Known(max(k.lo for k in run), max(k.hi for k in run)) for run in bounds])


def _properties(counted: Sequence[RunRow]) -> Iterator[PropertyResult]:
    """A property that is judged in each run holds if it held in all of them."""
    every = ((row.index, each) for row in counted for each in row.result.properties)
    for (name, _), judged in grouped(every, lambda one: (one[1].name, one[1].expected)).items():
        broken = [(index, each) for index, each in judged if each.held is False]
        unknown = [(index, each) for index, each in judged if each.held is None]
        index, shown = (broken or unknown or judged)[0]
        yield PropertyResult(
            name=name,
            held=None if unknown and not broken else not broken,
            expected=shown.expected,
            weight=shown.weight,
            runs=len(judged),
            held_in=len(judged) - len(broken) - len(unknown),
            detail=shown.detail if len(judged) == 1 else f"run {index}: {shown.detail}",
        )


def _verdict(
    rows: Sequence[RunRow],
    attacks: Sequence[AttackResult],
    properties: Sequence[PropertyResult],
    skipped: Sequence[SkippedResult],
) -> Verdict:
    failed = any(row.summary is not None and row.summary.verdict == "failed" for row in rows)
    wrong = {
        p.weight for p in properties if p.held is not None and p.held != (p.expected == "held")
    }
    outcomes = {(attack.verdict, attack.expected) for attack in attacks}
    if failed or "safety" in wrong or outcomes & {("broken", "held"), ("held", "broken")}:
        return "failed"
    if not any(row.counted for row in rows):
        return "invalid"
    if wrong or any(row.summary and row.summary.verdict == "degraded" for row in rows):
        return "degraded"
    undecided = any(each.held is None for each in properties)
    undecided = undecided or any(verdict == "invalid" for verdict, _ in outcomes)
    return "partial" if undecided or skipped or not all(r.counted for r in rows) else "passed"


def _notes(
    manifest: Manifest, rows: Sequence[RunRow], attacks: Sequence[AttackResult]
) -> Iterator[str]:
    yield from _notes_of_runs(rows)
    left_out = [row for row in rows if not row.counted]
    missing = any(row.state != "invalid" for row in left_out)
    if left_out:
        yield (
            f"in no figure: {len(left_out)} of {len(rows)} runs; to make them (again): "
            f"testbed resume BUNDLE{'' if missing else ' --also-invalid'}"
        )
    alone = {row.trial for row in rows if row.counted and row.arm == "faults"} ^ {
        row.trial for row in rows if row.counted and row.arm == "baseline"
    }
    if alone and any(row.arm == "baseline" for row in rows):
        yield f"trials in no ratio, because they have one run of their pair only: {len(alone)}"
    for attack in attacks:
        if attack.verdict == "invalid":
            yield (
                f"attack {attack.id}: too few distinct trials for the bound {attack.allowed}: "
                f"{attack.distinct}; raise trials: count"
            )
    for name, reason in sorted(manifest.exclusions.items()):
        yield f"{name} was left out: {reason}"


def _notes_of_runs(rows: Sequence[RunRow]) -> Iterator[str]:
    """Each note once. If it is not about all runs, it names its runs."""
    runs: dict[str, list[int]] = {}
    judged = [row for row in rows if row.summary is not None]
    for row in judged:
        for note in row.result.notes:
            runs.setdefault(note, []).append(row.index)
    for note, found in runs.items():
        if len(found) == len(judged):
            yield note
        elif len(found) == 1:
            yield f"run {found[0]}: {note}"
        else:
            yield f"{len(found)} runs, the first is {found[0]}: {note}"
