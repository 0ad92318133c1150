"""From the summaries of runs to that of their campaign: what can be said over all of them.

Reads what `derive` left in each run's directory; raw files are not looked at again. Runs that do
not count (not made, failed, invalid) are listed with their reason and are in no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from testbed.bundle import Bundle
from testbed.campaign.file import Expect, load_campaign
from testbed.campaign.schedule import Schedule
from testbed.errors import ConfigurationError
from testbed.manifest import Manifest, RunEntry
from testbed.report.campaign_summary import (
    CampaignSummary,
    CampaignVerdict,
    Counts,
    Expectation,
    FaultOverRuns,
    PooledAttack,
    RunRow,
)
from testbed.report.figures import admission_ms, expectations, figures
from testbed.report.pairing import Known, between, known, median
from testbed.report.stats import upper95
from testbed.report.summary import AttackResult, AttackVerdict, Summary

__all__ = ["over_runs", "read_summary"]


def over_runs(bundle: Bundle) -> CampaignSummary:
    """The summary of a campaign of several runs. Raises ConfigurationError."""
    manifest = bundle.manifest
    schedule = Schedule.from_json((bundle.path / "inputs/schedule.json").read_bytes())
    expect: Expect = load_campaign(bundle.path / "inputs/campaign.yaml").expect
    summaries = {
        entry.index: read_summary(bundle.of_run(entry)) for entry in manifest.runs if entry.complete
    }
    rows = tuple(_row(entry, summaries.get(entry.index)) for entry in manifest.runs)
    counted = [summaries[row.index] for row in rows if row.counted]
    shown = figures(counted)
    attacks = tuple(_attacks(counted, expect))
    properties = (*_properties(counted), *expectations(expect.degradation, shown))
    altered = bundle.altered(manifest)
    verdict = _verdict(rows, attacks, properties)
    return CampaignSummary(
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
        figures=shown,
        attacks=attacks,
        faults=tuple(_faults(counted)),
        properties=properties,
        runs=rows,
        notes=(
            *(f"{name} is not what these runs were made from" for name in altered),
            *_notes(manifest, rows, attacks),
        ),
    )


def read_summary(run: Bundle) -> Summary:
    """The summary that `derive` wrote. Raises ConfigurationError."""
    try:
        return msgspec.convert(run.read_json("summary.json"), type=Summary)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{run.path}/summary.json: {error}") from error


def _row(entry: RunEntry, summary: Summary | None) -> RunRow:
    # What is invalid the raw files say (a report may be made anew), not the manifest alone.
    state, reason = entry.state, entry.reason
    if summary is not None and summary.verdict == "invalid":
        state, reason = "invalid", reason or "; ".join(summary.notes)
    if state == "running":
        reason = "cut off, or still running"
    row = RunRow(
        index=entry.index,
        trial=entry.trial,
        arm=entry.arm,
        path=entry.path,
        state=state,
        verdict=summary.verdict if summary else None,
        reason=reason,
        attempts=entry.attempts,
    )
    if summary is None or not row.counted:
        return row
    load = summary.load and (summary.load.struck or summary.load.whole)
    recoveries = [fault.recovery_ms for fault in summary.faults]
    worst = [each for each in recoveries if each is not None]
    admission = admission_ms(summary)
    return msgspec.structs.replace(
        row,
        blocks=summary.blocks,
        records=summary.records,
        view_changes=summary.view_changes,
        sent=load.sent if load else None,
        censored=load.sent - load.answered if load else None,
        goodput_per_s=load.goodput_per_s if load else None,
        p50_ms=load.p50_ms if load else None,
        p99_ms=load.p99_ms if load else None,
        max_ms=load.max_ms if load else None,
        admission_p50_ms=None if admission is None or admission.censored else admission.lo,
        consensus_p50_ms=summary.latency_ms.consensus.p50,
        recovery_ms=max(worst) if worst and len(worst) == len(recoveries) else None,
    )


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


def _attacks(counted: Sequence[Summary], expect: Expect) -> Iterator[PooledAttack]:
    """Every run has keys and a network of its own, so what is distinct in one is so in all."""
    by_id: dict[str, list[AttackResult]] = {}
    for summary in counted:
        for attack in summary.attacks:
            by_id.setdefault(attack.id, []).append(attack)
    for name, found in by_id.items():
        successes = sum(each.successes for each in found)
        distinct = sum(each.distinct for each in found)
        bound = upper95(min(successes, distinct), distinct)
        wanted = expect.attack.get(name)
        allowed = None if wanted is None else wanted.succeeded_upper95
        refused: Counter[str] = Counter()
        for each in found:
            refused.update(each.refused)
        yield PooledAttack(
            id=name,
            kind=found[0].kind,
            runs=len(found),
            trials=sum(each.trials for each in found),
            observed=sum(each.observed for each in found),
            distinct=distinct,
            successes=successes,
            upper95=None if bound is None else round(bound, 6),
            allowed=allowed,
            verdict=_pooled(successes, bound, allowed),
            refused=dict(sorted(refused.items())),
        )


def _pooled(successes: int, bound: float | None, allowed: float | None) -> AttackVerdict:
    if successes:
        return "broken"
    return "held" if bound is not None and (allowed is None or bound <= allowed) else "invalid"


def _faults(counted: Sequence[Summary]) -> Iterator[FaultOverRuns]:
    """A repeated fault (`every`) has events named after it: its worst recovery in each run."""
    groups: dict[tuple[str, str], list[list[Known]]] = {}
    steps: dict[tuple[str, str], Counter[str]] = {}
    for summary in counted:
        here: dict[tuple[str, str], list[Known]] = {}
        for fault in summary.faults:
            key = (fault.id.partition(".")[0], fault.kind)
            recovery = between(0.0) if fault.recovery_ms is None else known(fault.recovery_ms)
            here.setdefault(key, []).append(recovery)
            steps.setdefault(key, Counter()).update(
                injected=1, observed=int(fault.observed), healed=int(fault.healed)
            )
        for key, found in here.items():
            groups.setdefault(key, []).append(found)
    for (name, kind), runs in groups.items():
        count = steps[name, kind]
        worst = [Known(max(k.lo for k in found), max(k.hi for k in found)) for found in runs]
        yield FaultOverRuns(
            id=name,
            kind=kind,
            runs=len(runs),
            injected=count["injected"],
            observed=count["observed"],
            healed=count["healed"],
            recovery_ms=median(worst),
        )


def _properties(counted: Sequence[Summary]) -> Iterator[Expectation]:
    """What is judged in each run: held if it held in all of them."""
    names = dict.fromkeys(each.name for summary in counted for each in summary.properties)
    for name in names:
        judged = [
            (summary, each)
            for summary in counted
            for each in summary.properties
            if each.name == name
        ]
        broken = [f"{summary.run}: {each.detail}" for summary, each in judged if not each.held]
        yield Expectation(
            name=name,
            held=not broken,
            runs=len(judged),
            held_in=len(judged) - len(broken),
            detail=broken[0] if broken else "",
        )


def _verdict(
    rows: Sequence[RunRow],
    attacks: Sequence[PooledAttack],
    properties: Sequence[Expectation],
) -> CampaignVerdict:
    verdicts = {attack.verdict for attack in attacks}
    failed = any(row.verdict == "failed" for row in rows)
    if failed or "broken" in verdicts or any(each.held is False for each in properties):
        return "failed"
    if not any(row.counted for row in rows):
        return "invalid"
    undecided = any(each.held is None for each in properties) or "invalid" in verdicts
    return "partial" if undecided or not all(row.counted for row in rows) else "passed"


def _notes(
    manifest: Manifest, rows: Sequence[RunRow], attacks: Sequence[PooledAttack]
) -> Iterator[str]:
    left_out = [row for row in rows if not row.counted]
    missing = any(row.state != "invalid" for row in left_out)
    if left_out:
        yield (
            f"{len(left_out)} of {len(rows)} runs are in no figure; to make them (again): "
            f"testbed resume {manifest.run}{'' if missing else ' --also-invalid'}"
        )
    alone = {row.trial for row in rows if row.counted and row.arm == "faults"} ^ {
        row.trial for row in rows if row.counted and row.arm == "baseline"
    }
    if alone and any(row.arm == "baseline" for row in rows):
        yield f"{len(alone)} trials have one run of their pair only, and are in no ratio"
    for attack in attacks:
        if attack.verdict == "invalid":
            yield (
                f"attack {attack.id}: {attack.distinct} distinct trials are too few for the bound "
                f"{attack.allowed}; raise trials: count"
            )
    for name, reason in sorted(manifest.exclusions.items()):
        yield f"{name} was left out: {reason}"
