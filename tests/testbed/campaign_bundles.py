"""A campaign of several runs in a test's hand: every run a copy of one `Story`, with latencies that
the test chooses, and a manifest that says what the test wants it to say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from testbed.bundle import Bundle, RunFolder
from testbed.campaign.expect import Expect
from testbed.campaign.file import load_campaign
from testbed.campaign.schedule import Run, Schedule
from testbed.manifest import RunEntry
from testbed.report.summary import RunSummary
from tests.testbed.bundles import Story, judged, lines, write_lines

__all__ = ["campaign_of", "rescheduled", "slow_down", "summarise"]


def campaign_of(
    story: Story,
    out: Path,
    trials: int,
    *,
    slower: Mapping[int, float] | None = None,
    expect: str = "",
    name: str = "many",
) -> Bundle:
    """An ABBA campaign of `trials` pairs, complete. `slower[run]` is the factor by which data of
    that run took longer; the runs share their arrivals, so that nothing else differs."""
    text = (story.bundle.path / "inputs/campaign.yaml").read_text() + expect
    schedule = _schedule(story.schedule, trials).model_copy(
        update={"expect": load_expect(out / f"{name}.yaml", text)}
    )
    bundle = Bundle(out / name)
    bundle.path.mkdir(parents=True)
    bundle.write("inputs/campaign.yaml", text)
    bundle.write("inputs/schedule.json", schedule.canonical_json())
    manifest = msgspec.structs.replace(
        story.bundle.manifest,
        run=name,
        schedule_sha256=schedule.schedule_hash,
        campaign_sha256=sha256(text.encode()).hexdigest(),
        runs=tuple(
            RunEntry(index=run.index, trial=run.trial, arm=run.arm, state="done")
            for run in schedule.runs
        ),
    )
    bundle.write_manifest(manifest)
    for run in bundle.runs:
        shutil.copytree(story.run.path, run.path)
        slow_down(run, (slower or {}).get(run.entry.index, 1.0))
    return bundle


def load_expect(path: Path, text: str) -> Expect:
    """What a campaign file of this text expects."""
    path.write_text(text)
    return load_campaign(path).expect


def rescheduled(bundle: Bundle, old: str, new: str) -> None:
    """As if `new` had stood in the schedule instead of `old`, from the beginning."""
    path = bundle.path / "inputs/schedule.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    digest = sha256(path.read_bytes()).hexdigest()
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, schedule_sha256=digest))


def summarise(bundle: Bundle, slower: Mapping[int, float] | None = None) -> None:
    """Summaries of the runs as `derive` would write them, without figures and tables. Runs of one
    arm and factor differ in nothing, so that one of each is judged."""
    known: dict[tuple[str, float], RunSummary] = {}
    for run in bundle.runs:
        kind = (run.entry.arm, (slower or {}).get(run.entry.index, 1.0))
        if kind not in known:
            known[kind] = judged(run)
        run.write_json("summary.json", msgspec.to_builtins(known[kind]))


def slow_down(run: RunFolder, factor: float) -> None:
    """Data took `factor` times as long, in the devices' logs."""
    for path in run.raw.glob("*.jsonl"):
        entries = lines(path)
        if any(entry.get("event") == "data" for entry in entries):
            write_lines(path, [_slower(entry, factor) for entry in entries])


def _slower(entry: dict[str, Any], factor: float) -> dict[str, Any]:
    if entry.get("event") != "data":
        return entry
    return entry | {"latency_ms": entry["latency_ms"] * factor}


def _schedule(one: Schedule, trials: int) -> Schedule:
    (trial,) = one.trials
    arms = ("baseline", "faults")
    runs = [
        Run(index=2 * number + place, trial=number, arm=arm)  # type: ignore[arg-type]
        for number in range(trials)
        for place, arm in enumerate(arms if number % 2 == 0 else reversed(arms))
    ]
    copies = tuple(trial.model_copy(update={"index": number}) for number in range(trials))
    return one.model_copy(update={"trials": copies, "runs": tuple(runs)})
