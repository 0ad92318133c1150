"""Compares two or more results: differences in their set-up, and differences in their outcome.
`compare_plots` and `compare_page` draw and show it.

Each result is compared with the first one. If both have the same schedule, both met the same
arrivals and faults, and their runs are paired by number. Otherwise the two sets of runs are
compared as a whole. Runs that do not count are in no figure, as in a report. Two bundles cannot
show whether a difference comes from the code or from the machine, so all differences in their
set-up are listed first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from testbed.bundle import Bundle
from testbed.campaign.schedule import Schedule
from testbed.checks.evidence import schedule_of
from testbed.manifest import Arm, Manifest
from testbed.report.figures import BETWEEN_SYSTEMS, OVER_REPLICAS, QUANTITIES, Quantity
from testbed.report.over_runs import over_runs
from testbed.report.pairing import Estimate, Known, median, paired_ratio, unpaired_ratio
from testbed.report.summary import AttackResult, RunRow

__all__ = [
    "ARMS",
    "MADE_ALIKE",
    "SAME_VERDICTS",
    "Comparison",
    "Difference",
    "FigurePair",
    "JudgedBundle",
    "SizeCurve",
    "VerdictChange",
    "compare",
    "curves_over_replicas",
    "read_result",
]

MADE_ALIKE = "Made alike: campaign, seed, inventory, code, packages and machines."
SAME_VERDICTS = "All verdicts are the same."
ARMS: Mapping[Arm, str] = {"faults": "with faults", "baseline": "without faults"}


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

    @property
    def replicas(self) -> int:
        return len(self.schedule.replicas)

    @property
    def commit(self) -> str:
        """Of the code that ran."""
        commit = str(self.manifest.git.get("commit") or "unknown")[:12]
        return f"{commit} with local changes" if self.manifest.git.get("dirty") else commit


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference in how two results were made."""

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

    @property
    def runs(self) -> str:
        """How many there are, in words."""
        return str(self.a.n) if self.a.n == self.b.n else f"{self.a.n} and {self.b.n}"


class VerdictChange(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict that differs in `b`."""

    name: str
    a: str
    b: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`b` compared with `a` (names of bundles). `obstacles`: why figures cannot be compared; then
    there are no figures. `verdicts`: all verdicts of both, if the systems under test differ.
    `changes`: the verdicts that differ. `loopback`: one of them at least is no measurement of
    boards."""

    a: str
    b: str
    obstacles: tuple[str, ...]
    differences: tuple[Difference, ...]
    changes: tuple[VerdictChange, ...]
    figures: tuple[FigurePair, ...]
    systems: tuple[str, str] = ("chain", "chain")
    verdicts: tuple[VerdictChange, ...] = ()
    loopback: bool = False

    @property
    def how(self) -> str:
        """How `figures` were made, in words."""
        if all(each.paired for each in self.figures):
            return "Medians over runs; ratios pair runs of one number, which had the same arrivals."
        return "Medians over runs; the schedules differ, so that runs are compared as two groups."


class SizeCurve(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity in the runs of one arm against the number of replicas. `of`: what has it, as
    `admission`. `points`: (replicas, median over the runs) in the order of replicas."""

    of: str
    name: str
    unit: str
    arm: Arm
    points: tuple[tuple[int, Estimate], ...]


def read_result(bundle: Bundle) -> JudgedBundle:
    """Reads a result that `testbed report` wrote. Raises ConfigurationError."""
    schedule = schedule_of(bundle)
    whole = over_runs(bundle)
    judged = {each.name: _held(each.held) for each in whole.properties}
    judged |= {f"attack {each.id}": each.verdict for each in whole.attacks}
    counted = {row.index: row for row in whole.runs if row.counted}
    attacks = {each.id: each for each in whole.attacks}
    return JudgedBundle(bundle, bundle.manifest, schedule, whole.verdict, judged, counted, attacks)


def compare(a: JudgedBundle, b: JudgedBundle) -> Comparison:
    """Compares b with a."""
    obstacles = tuple(_obstacles(a, b))
    figures = () if obstacles else tuple(_figures(a, b))
    if not figures and not obstacles:
        obstacles = ("no figure has a value in both results",)
    return Comparison(
        a=a.bundle.name,
        b=b.bundle.name,
        obstacles=obstacles,
        differences=tuple(_differences(a, b)),
        changes=tuple(each for each in _verdicts(a, b) if each.a != each.b),
        figures=figures,
        systems=(a.schedule.system, b.schedule.system),
        verdicts=() if a.schedule.system == b.schedule.system else tuple(_verdicts(a, b)),
        loopback="loopback" in (a.manifest.stage, b.manifest.stage),
    )


def curves_over_replicas(results: Sequence[JudgedBundle]) -> tuple[SizeCurve, ...]:
    """Every quantity that the results of the first one's test, system and stage all have. None if
    there are fewer than two, or two with the same number of replicas."""
    first = results[0]
    alike = [
        each
        for each in results
        if each.counted
        and each.schedule.system == first.schedule.system
        and each.manifest.stage == first.manifest.stage
        and not any(_other_test(first, each))
    ]
    sizes = {each.replicas for each in alike}
    if not 1 < len(alike) == len(sizes):
        return ()
    ordered = sorted(alike, key=lambda each: each.replicas)
    found = []
    for arm in ARMS:
        for of, quantities in OVER_REPLICAS.items():
            for quantity in quantities:
                values = [list(_values(each, quantity, arm).values()) for each in ordered]
                if all(values):
                    points = tuple(zip(sorted(sizes), map(median, values), strict=True))
                    found.append(
                        SizeCurve(
                            of=of, name=quantity.name, unit=quantity.unit, arm=arm, points=points
                        )
                    )
    return tuple(found)


def _obstacles(a: JudgedBundle, b: JudgedBundle) -> Iterator[str]:
    """Figures of different tests are not comparable, even if their names are equal."""
    yield from _other_test(a, b)
    if a.schedule.system == b.schedule.system and a.replicas != b.replicas:
        yield f"they have different numbers of replicas: {a.replicas} and {b.replicas}"
    for each in (a, b):
        if not each.counted:
            yield f"{each.bundle.name} has no run that counts"


def _other_test(a: JudgedBundle, b: JudgedBundle) -> Iterator[str]:
    if a.schedule.campaign != b.schedule.campaign:
        yield f"they are different campaigns: {a.schedule.campaign} and {b.schedule.campaign}"
    elif a.schedule.phases != b.schedule.phases:
        yield "the campaigns have the same name, but other phases"
    elif _faults(a.schedule) != _faults(b.schedule):
        yield "the campaigns have the same name, but other faults or attacks"
    elif (one := a.schedule.workload) != (two := b.schedule.workload):
        yield f"the workloads differ: {one.in_words} and {two.in_words}"


def _faults(schedule: Schedule) -> set[tuple[str, str, str]]:
    return {(e.fault, e.kind, e.phase) for trial in schedule.trials for e in trial.events}


def _differences(a: JudgedBundle, b: JudgedBundle) -> Iterator[Difference]:
    one, two = a.manifest, b.manifest
    pairs: dict[str, tuple[object, object]] = {
        "system": (a.schedule.system, b.schedule.system),
        "stage": (one.stage, two.stage),
        "seed": (one.seed, two.seed),
        "expectations": (_expectations(a), _expectations(b)),
        "schedule": _schedules(a.schedule, b.schedule),
        "runs": (len(a.schedule.runs), len(b.schedule.runs)),
        "runs in the figures": (len(a.counted), len(b.counted)),
        "inventory": (one.inventory_sha256[:12], two.inventory_sha256[:12]),
        "commit": (a.commit, b.commit),
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


def _schedules(a: Schedule, b: Schedule) -> tuple[str, str]:
    """Their hashes, as in the names of bundles; equal if only the expectations differ."""
    if a.what_happens == b.what_happens:
        return "", ""
    return a.schedule_hash[:12], b.schedule_hash[:12]


def _expectations(result: JudgedBundle) -> str:
    return sha256(result.schedule.expect.model_dump_json().encode()).hexdigest()[:12]


def _machines(a: JudgedBundle, b: JudgedBundle) -> Iterator[tuple[str, tuple[object, object]]]:
    """The kind of machine of each host, if that was collected."""
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


def _verdicts(a: JudgedBundle, b: JudgedBundle) -> Iterator[VerdictChange]:
    yield VerdictChange(name="verdict", a=a.verdict, b=b.verdict)
    for name in [*a.judged, *(n for n in b.judged if n not in a.judged)]:
        left, right = a.judged.get(name, "not judged"), b.judged.get(name, "not judged")
        yield VerdictChange(name=name, a=left, b=right)


def _held(value: bool | None) -> str:
    return "undecided" if value is None else ("held" if value else "broken")


def _figures(a: JudgedBundle, b: JudgedBundle) -> Iterator[FigurePair]:
    other = a.schedule.system != b.schedule.system
    paired = a.schedule.what_happens == b.schedule.what_happens or (other and _alike(a, b))
    for arm in ARMS:
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
    """Whether runs with the same number had the same arrivals, and the same faults as far as these
    apply."""
    one, two = a.schedule, b.schedule
    return (one.seed, one.lab, one.runs) == (two.seed, two.lab, two.runs)


def _values(result: JudgedBundle, quantity: Quantity, arm: Arm) -> dict[int, Known]:
    found = {i: quantity.of(row.result) for i, row in result.counted.items() if row.arm == arm}
    return {i: value for i, value in found.items() if value is not None}
