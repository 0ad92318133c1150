"""Compares two or more results: how they were made differently, and what came out differently.

Each result is compared with the first one. If both have the same schedule, both met the same
arrivals and faults, and their runs are paired by number. Otherwise the two sets of runs are
compared as a whole. Runs that do not count are in no figure, as in a report. Two bundles cannot
show whether a number comes from the code or from the machine, so all other differences are listed
first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from testbed.bundle import Bundle
from testbed.campaign.schedule import Schedule
from testbed.manifest import Arm, Manifest
from testbed.report.figures import BETWEEN_SYSTEMS, QUANTITIES, Quantity
from testbed.report.over_runs import over_runs
from testbed.report.pairing import Estimate, Known, median, paired_ratio, unpaired_ratio
from testbed.report.summary import AttackResult, RunRow

__all__ = [
    "Change",
    "Comparison",
    "Difference",
    "FigurePair",
    "JudgedBundle",
    "compare",
    "read_result",
]


@dataclass(frozen=True)
class JudgedBundle:
    """A bundle whose runs were derived. `counted`: the runs that count, by number."""

    bundle: Bundle
    manifest: Manifest
    schedule: Schedule
    verdict: str
    judged: dict[str, str]  # property or attack: verdict
    counted: dict[int, RunRow]
    attacks: dict[str, AttackResult]  # by id, over all runs


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How two results were made differently."""

    what: str
    a: str
    b: str


class FigurePair(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity in the runs of one arm: medians, and b / a. `paired`: run by run."""

    name: str
    unit: str
    arm: Arm
    a: Estimate
    b: Estimate
    ratio: Estimate
    paired: bool


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict that differs in `b`."""

    name: str
    a: str
    b: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`b` compared with `a` (names of bundles). `obstacles`: why figures cannot be compared; then
    there are no figures. `verdicts`: all verdicts of both, if the systems under test differ.
    `changes`: the verdicts that differ."""

    a: str
    b: str
    obstacles: tuple[str, ...]
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]
    figures: tuple[FigurePair, ...]
    systems: tuple[str, str] = ("chain", "chain")
    verdicts: tuple[Change, ...] = ()


def read_result(bundle: Bundle) -> JudgedBundle:
    """Reads what `testbed report` wrote. Raises ConfigurationError."""
    schedule = Schedule.from_json(bundle.read("inputs/schedule.json"))
    whole = over_runs(bundle)
    judged = {each.name: _held(each.held) for each in whole.properties}
    judged |= {f"attack {each.id}": each.verdict for each in whole.attacks}
    counted = {row.index: row for row in whole.runs if row.counted}
    attacks = {each.id: each for each in whole.attacks}
    return JudgedBundle(bundle, bundle.manifest, schedule, whole.verdict, judged, counted, attacks)


def compare(a: JudgedBundle, b: JudgedBundle) -> Comparison:
    """Compares b with a."""
    obstacles = tuple(_obstacles(a, b))
    return Comparison(
        a=a.bundle.name,
        b=b.bundle.name,
        obstacles=obstacles,
        differences=tuple(_differences(a, b)),
        changes=tuple(each for each in _verdicts(a, b) if each.a != each.b),
        figures=() if obstacles else tuple(_figures(a, b)),
        systems=(a.schedule.system, b.schedule.system),
        verdicts=() if a.schedule.system == b.schedule.system else tuple(_verdicts(a, b)),
    )


def _obstacles(a: JudgedBundle, b: JudgedBundle) -> Iterator[str]:
    """Figures of different tests are not comparable, even if their names are equal."""
    if a.schedule.campaign != b.schedule.campaign:
        yield f"they are different campaigns: {a.schedule.campaign} and {b.schedule.campaign}"
    elif a.schedule.phases != b.schedule.phases:
        yield "the campaigns have the same name, but other phases"
    elif _faults(a.schedule) != _faults(b.schedule):
        yield "the campaigns have the same name, but other faults or attacks"
    elif (one := a.schedule.workload) != (two := b.schedule.workload):
        yield f"the workloads differ: {one.in_words} and {two.in_words}"
    same_system = a.schedule.system == b.schedule.system
    if same_system and len(a.schedule.replicas) != len(b.schedule.replicas):
        yield (
            f"they have different numbers of replicas: {len(a.schedule.replicas)} and "
            f"{len(b.schedule.replicas)}"
        )
    for each in (a, b):
        if not each.counted:
            yield f"{each.bundle.name} has no run that counts"


def _faults(schedule: Schedule) -> set[tuple[str, str, str]]:
    return {(e.fault, e.kind, e.phase) for trial in schedule.trials for e in trial.events}


def _differences(a: JudgedBundle, b: JudgedBundle) -> Iterator[Difference]:
    one, two = a.manifest, b.manifest
    pairs: dict[str, tuple[object, object]] = {
        "system": (a.schedule.system, b.schedule.system),
        "stage": (one.stage, two.stage),
        "seed": (one.seed, two.seed),
        "expectations": (_expectations(a), _expectations(b)),
        "schedule": (_schedule(a), _schedule(b)),
        "runs": (len(a.schedule.runs), len(b.schedule.runs)),
        "runs in the figures": (len(a.counted), len(b.counted)),
        "inventory": (one.inventory_sha256[:12], two.inventory_sha256[:12]),
        "commit": (_commit(one), _commit(two)),
        "code": (one.code_sha256[:12], two.code_sha256[:12]),
        "Python": (one.python, two.python),
    }
    names = sorted({*one.packages, *two.packages})
    pairs |= {
        f"package {name}": (one.packages.get(name, "none"), two.packages.get(name, "none"))
        for name in names
    }
    pairs |= {f"host {k}": pair for k, pair in _machines(a, b)}
    for what, (left, right) in pairs.items():
        if left != right:
            yield Difference(what=what, a=str(left), b=str(right))


def _schedule(result: JudgedBundle) -> str:
    return result.schedule.what_happens.schedule_hash[:12]


def _expectations(result: JudgedBundle) -> str:
    return sha256(result.schedule.expect.model_dump_json().encode()).hexdigest()[:12]


def _commit(manifest: Manifest) -> str:
    commit = str(manifest.git.get("commit") or "unknown")[:12]
    return f"{commit} with local changes" if manifest.git.get("dirty") else commit


def _machines(a: JudgedBundle, b: JudgedBundle) -> Iterator[tuple[str, tuple[object, object]]]:
    """What kind of machine each host was, where that was collected."""
    left, right = _about(a), _about(b)
    for name in sorted(left.keys() & right.keys()):
        for key in ("machine", "cpu", "cores", "kernel", "governor"):
            yield f"{name}, {key}", (left[name].get(key), right[name].get(key))


def _about(result: JudgedBundle) -> dict[str, dict[str, object]]:
    first = next((run for run in result.bundle.runs if run.entry.complete), None)
    if first is None:
        return {}
    paths = sorted((first.path / "env").glob("*.json"))
    return {path.stem: first.read_json(f"env/{path.name}") for path in paths}


def _verdicts(a: JudgedBundle, b: JudgedBundle) -> Iterator[Change]:
    yield Change(name="verdict", a=a.verdict, b=b.verdict)
    for name in [*a.judged, *(n for n in b.judged if n not in a.judged)]:
        left, right = a.judged.get(name, "not judged"), b.judged.get(name, "not judged")
        yield Change(name=name, a=left, b=right)


def _held(value: bool | None) -> str:
    return "undecided" if value is None else ("held" if value else "broken")


def _figures(a: JudgedBundle, b: JudgedBundle) -> Iterator[FigurePair]:
    arms: tuple[Arm, ...] = ("faults", "baseline")
    other = a.schedule.system != b.schedule.system
    paired = a.schedule.what_happens == b.schedule.what_happens or (other and _alike(a, b))
    for arm in arms:
        for quantity in (*QUANTITIES, *BETWEEN_SYSTEMS) if other else QUANTITIES:
            left, right = _values(a, quantity, arm), _values(b, quantity, arm)
            if not left or not right:
                continue
            if paired:
                both = sorted(left.keys() & right.keys())
                ratio = paired_ratio([left[i] for i in both], [right[i] for i in both])
            else:
                ratio = unpaired_ratio(list(left.values()), list(right.values()))
            yield FigurePair(
                name=quantity.name,
                unit=quantity.unit,
                arm=arm,
                a=median(list(left.values())),
                b=median(list(right.values())),
                ratio=ratio,
                paired=paired,
            )


def _alike(a: JudgedBundle, b: JudgedBundle) -> bool:
    """Runs of the same number met the same arrivals, and the same faults as far as they apply."""
    one, two = a.schedule, b.schedule
    return (one.seed, one.lab, one.runs) == (two.seed, two.lab, two.runs)


def _values(result: JudgedBundle, quantity: Quantity, arm: Arm) -> dict[int, Known]:
    found = {
        i: quantity.of(row.summary)
        for i, row in result.counted.items()
        if row.arm == arm and row.summary is not None
    }
    return {i: value for i, value in found.items() if value is not None}
